"""Rules by which a text is no prose: too short, hardly any letters, the same lines again and again.

Those of Gopher (arXiv:2112.11446, A1.1 and table A1), each of which can be set or left out. Two of its rules are not
here: the share of repeated paragraphs, since a document is a piece of a file, and repeated n-grams of more than five
words. Its thresholds were chosen for whole pages of English from the web: look at the card before a corpus is thrown
away.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from everlearn.errors import ConfigError

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("-", "*", "\u2022", "\u2023", "\u25e6")
ELLIPSES = ("...", "\u2026")


@dataclass(frozen=True)
class Quality:
    """A text is left out by the first rule that it breaks. None leaves a rule out.

    Words are what stands between blanks, so that in a script without blanks `words`, `word_length` and the n-grams mean
    nothing; leave them out there.

    Args:
        words: fewest and most.
        word_length: least and greatest mean number of characters of a word.
        symbols: most "#" and ellipses, by word.
        letters: least share of words with a letter in them.
        bullets: largest share of lines that begin with a bullet.
        ellipses: largest share of lines that end with an ellipsis.
        stop_words: fewest different ones of eight very frequent English words; None for other languages.
        repeated_lines: largest share of lines that have stood before.
        top_bigram: largest share of the characters that the most frequent pair of words makes up.
        top_trigram: as above, of three words.
        top_fourgram: as above, of four.
        repeated_fivegrams: largest share of the words that stand in a group of five which has stood before.
    """

    words: tuple[int, int] | None = (50, 100_000)
    word_length: tuple[float, float] | None = (3.0, 10.0)
    symbols: float | None = 0.1
    letters: float | None = 0.8
    bullets: float | None = 0.9
    ellipses: float | None = 0.3
    stop_words: int | None = 2
    repeated_lines: float | None = 0.3
    top_bigram: float | None = 0.20
    top_trigram: float | None = 0.18
    top_fourgram: float | None = 0.16
    repeated_fivegrams: float | None = 0.15

    def __post_init__(self) -> None:
        """Refuse bounds that no text can keep."""
        for name in ("words", "word_length"):
            bounds = getattr(self, name)
            if bounds is not None and not 0 <= bounds[0] <= bounds[1]:
                raise ConfigError(f"Quality: {name}={bounds}: give the least and the greatest, or None.")

    def broken(self, text: str) -> str | None:
        """The name of the first rule that a text breaks."""
        words = text.split()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not words:
            return "words"
        told = (field.name for field in fields(self) if getattr(self, field.name) is not None)
        return next((name for name in told if not RULES[name](words, lines, getattr(self, name))), None)


Rule = Callable[[Sequence[str], Sequence[str], "tuple[float, float] | float"], bool]


def _between(measure: Callable[[Sequence[str]], float]) -> Callable[..., bool]:
    def kept(words: Sequence[str], lines: Sequence[str], bounds: tuple[float, float]) -> bool:
        return bounds[0] <= measure(words) <= bounds[1]

    return kept


def _most(measure: Callable[[Sequence[str], Sequence[str]], float]) -> Callable[..., bool]:
    def kept(words: Sequence[str], lines: Sequence[str], most: float) -> bool:
        return measure(words, lines) <= most

    return kept


def _least(measure: Callable[[Sequence[str]], float]) -> Callable[..., bool]:
    def kept(words: Sequence[str], lines: Sequence[str], least: float) -> bool:
        return measure(words) >= least

    return kept


def _share(of: Sequence[str], which: Callable[[str], bool]) -> float:
    return sum(map(which, of)) / len(of)


def _repeated(lines: Sequence[str]) -> float:
    return 1 - len(set(lines)) / len(lines)


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _top(words: Sequence[str], n: int) -> float:
    """The share of characters, blanks apart, in the most frequent n-gram; 0 where none stands twice."""
    grams = Counter(_grams(words, n))
    if not grams:
        return 0.0
    gram, count = max(grams.items(), key=lambda item: item[1] * (item[1] > 1) * sum(map(len, item[0])))
    return count * sum(map(len, gram)) / sum(map(len, words)) if count > 1 else 0.0


def _again(words: Sequence[str], n: int) -> float:
    """The share of words that stand in an n-gram which has stood before; each word counts once."""
    seen, inside = set[tuple[str, ...]](), set[int]()
    for start, gram in enumerate(_grams(words, n)):
        if gram in seen:
            inside.update(range(start, start + n))
        seen.add(gram)
    return len(inside) / len(words)


RULES: dict[str, Callable[..., bool]] = {
    "words": _between(len),
    "word_length": _between(lambda words: sum(map(len, words)) / len(words)),
    "symbols": _most(
        lambda words, lines: sum(w.count("#") + sum(w.count(e) for e in ELLIPSES) for w in words) / len(words)
    ),
    "letters": _least(lambda words: _share(words, lambda word: any(map(str.isalpha, word)))),
    "bullets": _most(lambda words, lines: _share(lines, lambda line: line.startswith(BULLETS))),
    "ellipses": _most(lambda words, lines: _share(lines, lambda line: line.endswith(ELLIPSES))),
    "stop_words": _least(lambda words: len({word.lower().strip(".,;:!?\"'()") for word in words} & STOP_WORDS)),
    "repeated_lines": _most(lambda words, lines: _repeated(lines)),
    "top_bigram": _most(lambda words, lines: _top(words, 2)),
    "top_trigram": _most(lambda words, lines: _top(words, 3)),
    "top_fourgram": _most(lambda words, lines: _top(words, 4)),
    "repeated_fivegrams": _most(lambda words, lines: _again(words, 5)),
}
"""Whether a text with these words and lines keeps a rule, by its name."""
