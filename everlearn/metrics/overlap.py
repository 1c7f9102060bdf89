"""Metrics that read how far a generated text overlaps with the wanted one: words, characters, edits made.

Scores are fractions: what authors print as a percentage is divided by 100.
"""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.types import Question, Reply

LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT(?::(.*?))?>", re.DOTALL)


def longest_common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest sequence that both hold in order, not necessarily in one piece.

    Bit-parallel (Hyyro 2004): a zero at place i of `row` is a step of the table's row at the i-th of `first`.
    """
    places: dict[Hashable, int] = {}
    for place, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for item in second:
        both = row & places.get(item, 0)
        row = (row + both | row - both) & full
    return len(first) - row.bit_count()


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True)
class RougeL:
    """F1 of the longest common subsequence of words: ROUGE-L with equal weights (Lin 2004, sec. 3.1).

    With L the length of that subsequence, precision is L / words of the reply, recall L / words of the target.
    Words are runs of letters and digits in lower case, of any script, neither stemmed nor cut into sentences.
    """

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def score(self, example: Example, reply: Reply) -> float:
        """In [0, 1]; 0 where either has no word."""
        target, words = (re.findall(r"\w+", text.lower()) for text in (example.response, reply.text))
        if not target or not words:
            return 0.0
        common = longest_common_subsequence(target, words)
        return _f1(common / len(words), common / len(target))


def _fill_literals(code: str) -> str:
    """Code with Py150's placeholders filled in: <NUM_LIT> is 0, <STR_LIT> nothing, <STR_LIT:x> is x."""
    return LITERAL.sub(lambda found: found[1] or "", code.replace("<NUM_LIT>", "0"))


@dataclass(frozen=True)
class EditSimilarity:
    """2 L / (a + b): L the longest common subsequence of two texts of a and b characters, both stripped.

    1 less the normalised Levenshtein distance in which a substitution costs 2: what `fuzz.ratio` computes, not
    rounded to whole percent, with which CodeXGLUE (arXiv:2102.04664) and TRACE score Py150.

    Args:
        fill_literals: write Py150's placeholders out before comparing, as TRACE does.
    """

    fill_literals: bool = False

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def score(self, example: Example, reply: Reply) -> float:
        """In [0, 1]; 0 where either is empty."""
        target, text = example.response.strip(), reply.text.strip()
        if self.fill_literals:
            target, text = _fill_literals(target), _fill_literals(text)
        if not target or not text:
            return 0.0
        return 2 * longest_common_subsequence(target, text) / (len(target) + len(text))


def _ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _share(part: Mapping[Any, int], whole: Mapping[Any, int]) -> float:
    """Mean share over the n-grams of the whole; 1 where there is none to be right or wrong about."""
    return sum(part.get(gram, 0) / count for gram, count in whole.items()) / len(whole) if whole else 1.0


def _sari(source: str, output: str, references: Sequence[str], n: int) -> float:
    """Mean of keep F1, delete precision and add F1 for n-grams of one length."""
    wanted = sum((_ngrams(r, n) for r in references), Counter())
    given, got = (Counter({g: c * len(references) for g, c in _ngrams(t, n).items()}) for t in (source, output))
    kept, deleted, right = given & got, given - got, given & wanted
    recall = (kept & wanted).total() / right.total() if right else 1.0
    keep = _f1(_share(kept & wanted, kept), recall)
    delete = _share(deleted - wanted, deleted)
    added, missed = set(got) - set(given), set(wanted) - set(given)
    hits = len(added & missed)
    add = _f1(hits / len(added) if added else 1.0, hits / len(missed) if missed else 1.0)
    return (keep + delete + add) / 3


@dataclass(frozen=True)
class Sari:
    """How well a simplification keeps, deletes and adds words, n-grams of 1 to 4 words (Xu et al. 2016).

    The mean over n of (F1 of n-grams kept + precision of n-grams deleted + F1 of n-grams added) / 3, each judged
    by the references. Counts and shares are those of the authors' script as corrected in tensor2tensor and Hugging
    Face's `evaluate`: 0/0 is 1, and the recall of kept n-grams is over their number. Words are in lower case, and every
    punctuation mark is a word. An n-gram that stands twice in the source and is kept once counts as wrongly deleted, so
    that the target itself may score a little below 1.

    The source is the last turn of the prompt, between the marks if they are given: for 20Minuten
    `Sari(after="Paragraph:", before="Simplification:")`. TRACE gives the whole prompt, instruction included.
    The references are the target, or the example's metadata "references" where it has several.

    Args:
        after: the source begins after the first such mark.
        before: the source ends before the last such mark.
    """

    after: str = ""
    before: str = ""

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def _source(self, example: Example) -> str:
        text = example.prompt[-1].content if example.prompt else ""
        if not text or self.after not in text or self.before not in text:
            raise DataError(
                f"{example.source or 'an example'}: no source to simplify: its prompt lacks {self.after!r} or "
                f"{self.before!r}, or is empty; set Sari's marks to what stands around the source."
            )
        text = text.partition(self.after)[2] if self.after else text
        return text.rpartition(self.before)[0] if self.before else text

    def score(self, example: Example, reply: Reply) -> float:
        """In [0, 1].

        Raises:
            DataError: if a mark does not stand in the prompt.
        """
        references = example.metadata.get("references", [example.response])
        source = self._source(example)
        return sum(_sari(source, reply.text, references, n) for n in range(1, 5)) / 4
