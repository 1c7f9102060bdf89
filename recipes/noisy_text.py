"""A corpus half of which is noise: articles of Wikipedia, clean, with wrong words, or with their words in no order.

Articles are parted first and cut into documents then, so that no article is in two parts. What is tested on, and what
learning rates are chosen on, are the same for all seeds; a seed parts the rest into curated text for a reference and
the corpus, and draws which of the corpus's documents are spoilt and how.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from everlearn.data.texts import cut
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.randomness import permutation, seed_of

FILES = ("wikitext2-valid.txt", "wikitext2-test.txt")
OTHER = "shakespeare.txt"
"""What the base has read before."""
TITLE = re.compile(r"^(?= = [^=\n]+ = \n)", re.MULTILINE)
KINDS = ("clean", "words", "order")
"""Of a corpus's documents: untouched; some of the words replaced; all words in another order."""
SHARES: Mapping[str, float] = {"clean": 0.5, "words": 0.25, "order": 0.25}
REPLACED = 0.5
"""Of a spoilt document's words that are replaced by words of the corpus, as often as they stand there."""
TESTED, TUNED, CURATED = 0.1, 0.1, 0.2
"""Of all articles' text: for the test, for the choice of learning rates, and for the reference."""


@dataclass(frozen=True)
class Parts:
    """A seed's documents, no article in two of the lists; `metadata["kind"]` is one of KINDS.

    Args:
        curated: clean ones that a reference learns from.
        corpus: half clean, half spoilt.
        tests: clean ones that nothing is learned from.
        probe: spoilt as the corpus is, of the same articles as `tests` and no document of them.
    """

    curated: Sequence[Example]
    corpus: Sequence[Example]
    tests: Sequence[Example]
    probe: Sequence[Example]


def articles(data: Path) -> list[str]:
    """The articles of the files.

    Raises:
        ConfigError: if the files are not there.
    """
    missing = [name for name in (*FILES, OTHER) if not (data / name).is_file()]
    if missing:
        raise ConfigError(f"{data} has no {missing[0]}; give the folder text/ that has {', '.join((*FILES, OTHER))}.")
    return [text for name in FILES for text in titled((data / name).read_text(encoding="utf-8"))]


def titled(text: str) -> list[str]:
    """A file's articles, each from its title to the next; what stands before the first title is none."""
    return [part for part in TITLE.split(text) if TITLE.match(part)]


def parts(found: Sequence[str], seed: int, tuning: bool, chunk: int, asked: int) -> Parts:
    """What a seed learns from and is asked.

    Args:
        found: the articles.
        seed: of what is curated, and of what is spoilt.
        tuning: whether it is asked what learning rates are chosen on.
        chunk: most bytes of a document.
        asked: documents of `tests`, and of `probe`, at most.
    """
    tested, tuned, rest = held_apart(found)
    order = [rest[i] for i in permutation(len(rest), seed, "curated")]
    curated, corpus = _share(order, CURATED * sum(map(len, found)))
    pool = [word for article in corpus for word in article.split()]
    documents = _mixed(pieces(corpus, chunk), seed, "corpus")
    held = _mixed(pieces(tuned if tuning else tested, chunk), 0, "held out")
    tests, probe = held[:asked], held[asked : 2 * asked]
    return Parts(
        curated=[_document(text, "clean") for text in pieces(curated, chunk)],
        corpus=spoilt(documents, pool, seed),
        tests=[_document(text, "clean") for text in tests],
        probe=spoilt(probe, pool, 0),
    )


def held_apart(found: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Articles for the test, for the choice of learning rates, and to learn from: the same for all seeds."""
    order = [found[i] for i in permutation(len(found), 0, "articles")]
    tested, rest = _share(order, TESTED * sum(map(len, found)))
    tuned, rest = _share(rest, TUNED * sum(map(len, found)))
    return tested, tuned, rest


def _share(texts: Sequence[str], letters: float) -> tuple[list[str], list[str]]:
    """The first texts that have so many letters together, and the others."""
    count, total = 0, 0
    while count < len(texts) and total < letters:
        total, count = total + len(texts[count]), count + 1
    return list(texts[:count]), list(texts[count:])


def pieces(texts: Sequence[str], chunk: int) -> list[str]:
    """Texts cut into documents of at most so many bytes, at the end of a line or a word."""
    found = list[str]()
    for text in texts:
        block = text.encode()
        while block:
            end = cut(block, chunk)
            found.append(block[:end].decode())
            block = block[end:]
    return [text for text in found if text.strip()]


def spoilt(texts: Sequence[str], pool: Sequence[str], seed: int) -> list[Example]:
    """Documents of each kind by SHARES, in the order that is given: mix them before."""
    found, start = list[Example](), 0
    for number, kind in enumerate(KINDS):
        last = number == len(KINDS) - 1
        end = len(texts) if last else start + round(SHARES[kind] * len(texts))
        for place, text in enumerate(texts[start:end], start):
            rng = random.Random(seed_of(seed, kind, place))
            made = {"clean": text, "words": replaced(text, pool, rng), "order": shuffled(text, rng)}
            found.append(_document(made[kind], kind))
        start = end
    return found


def replaced(text: str, pool: Sequence[str], rng: random.Random, share: float = REPLACED) -> str:
    """The text, each of its words with probability `share` another one, drawn from a pool; white space stays."""
    return "".join(rng.choice(pool) if part.strip() and rng.random() < share else part for part in _parted(text))


def shuffled(text: str, rng: random.Random) -> str:
    """The text's words in another order; white space stays."""
    parted = _parted(text)
    words = [part for part in parted if part.strip()]
    rng.shuffle(words)
    left = iter(words)
    return "".join(next(left) if part.strip() else part for part in parted)


def _parted(text: str) -> list[str]:
    return re.split(r"(\s+)", text)


def _mixed(texts: Sequence[str], seed: int, name: str) -> list[str]:
    return [texts[i] for i in permutation(len(texts), seed, name)]


def _document(text: str, kind: str) -> Example:
    return Example(text=text, metadata={"kind": kind})
