"""Texts that are the same but for case, spacing and punctuation, and texts that are nearly the same.

Two texts are near where the Jaccard similarity of their sets of three-word shingles reaches a threshold. Candidates
come from MinHash signatures in bands (Broder 1997; Leskovec, Rajaraman & Ullman 2020, ch. 3); each is then compared
exactly, so that a pair is never called near by chance. With 16 bands of 4, a pair at 0.8 is missed once in 5000 times.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain as joined

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]

BANDS, WIDTH = 16, 4
BLOCK = 64
"""Candidates that are compared at a time."""
HASH_BITS = np.uint64(40)
"""Of a shingle's hash; the other 24 hold the text's number."""
TEMPLATE_SHARE = 0.5
"""Shingles that stand in more than this share of the texts are the task's template, and say nothing about a row."""
TEMPLATE_ROWS = 20
"""Fewest texts among which a template can be told from a repetition."""

# A script without spaces gives a word for each character. Signs of arithmetic and logic are content, as are arrows and
# pictures, and a hyphen unless it joins two letters; other punctuation is not.
_SPACELESS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_SIGNS = r"+*/%=<>^|&~\u00ac\u00b1\u00d7\u00f7\u2190-\u23ff\u25a0-\u27bf\U0001f000-\U0001faff-"
_WORD = re.compile(f"[{_SPACELESS}]|[^\\W_{_SPACELESS}]+|[{_SIGNS}]")
_JOINING = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")


def words(text: str) -> list[str]:
    """What is compared: words without case, numbers, and signs of arithmetic; the text itself where it has none."""
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
    plain = _JOINING.sub(" ", folded) if "-" in folded else folded
    return _WORD.findall(plain) or folded.split()


@dataclass(frozen=True, eq=False)
class Sketch:
    """What texts look like: n sets of shingles, and their MinHash signatures.

    Args:
        shingles: hashes of all sets, one set after the other, each sorted.
        bounds: (n + 1,), where each set begins and ends.
        signatures: (n, BANDS * WIDTH).
    """

    shingles: Hashes
    bounds: Rows
    signatures: NDArray[np.uint32]

    def set_of(self, row: int) -> Hashes:
        """The shingles of one text."""
        return self.shingles[self.bounds[row] : self.bounds[row + 1]]

    def keys(self, rows: Rows) -> Hashes:
        """(BANDS, rows) of hashes: texts that share one in a band are candidates."""
        banded = self.signatures[rows].astype(np.uint64).reshape(len(rows), BANDS, WIDTH)
        return np.ascontiguousarray((banded * _odd(WIDTH)).sum(axis=2, dtype=np.uint64).T)


def sketch(texts: Sequence[Sequence[str]]) -> Sketch:
    """The sketch of texts in words; what most of many texts share, a task's template, is left out."""
    rows, hashes = _shingles(texts)
    if len(texts) >= TEMPLATE_ROWS:
        _, place, count = np.unique(hashes, return_inverse=True, return_counts=True)
        told = count[place] <= TEMPLATE_SHARE * len(texts)
        rows, hashes = rows[told], hashes[told]
    bounds = np.searchsorted(rows, np.arange(len(texts) + 1))
    return Sketch(hashes, bounds, _signatures(hashes, bounds))


def _odd(count: int) -> Hashes:
    """Fixed odd factors for multiplicative hashing."""
    return np.random.default_rng(20231204).integers(2**63, size=count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _shingles(texts: Sequence[Sequence[str]]) -> tuple[Rows, Hashes]:
    """(row, hash) of each distinct shingle, sorted; a text begins with two blanks, so that one word makes a shingle."""
    known = {word: number for number, word in enumerate(dict.fromkeys(joined.from_iterable(texts)))}
    table = np.array([_hash(word) for word in known], dtype=np.uint64)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    rows = np.repeat(np.arange(len(texts)), lengths)
    last = np.arange(len(rows)) + 2 * (rows + 1)  # where each word stands among words and blanks
    codes = np.zeros(len(rows) + 2 * len(texts), dtype=np.uint64)
    codes[last] = table[np.fromiter(map(known.__getitem__, joined.from_iterable(texts)), np.int64, len(rows))]
    first, second, third = _odd(3)
    mixed = (codes[last - 2] * first + codes[last - 1]) * second + codes[last]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * third
    # One number for row and hash sorts ten times as fast as two.
    both = np.sort((rows.astype(np.uint64) << HASH_BITS) | (mixed >> (np.uint64(64) - HASH_BITS)))
    both = both[np.concatenate([[True], both[1:] != both[:-1]])] if len(both) else both
    return (both >> HASH_BITS).astype(np.int64), both & ((np.uint64(1) << HASH_BITS) - np.uint64(1))


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest())


def _signatures(hashes: Hashes, bounds: Rows) -> NDArray[np.uint32]:
    signatures = np.zeros((len(bounds) - 1, BANDS * WIDTH), dtype=np.uint32)
    filled = np.flatnonzero(np.diff(bounds))
    if len(filled):
        for column, factor in enumerate(_odd(BANDS * WIDTH)):
            drawn = ((hashes * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[filled, column] = np.minimum.reduceat(drawn, bounds[filled])
    return signatures


class Index:
    """Some texts of a sketch, made ready to be searched for near ones."""

    def __init__(self, of: Sketch, rows: Iterable[int]) -> None:
        wanted = np.array(sorted(rows), dtype=np.int64)
        self.of, self.rows = of, wanted[np.diff(of.bounds)[wanted] > 0]
        keys = of.keys(self.rows)
        self._order = np.argsort(keys, axis=1, kind="stable")
        self._keys = np.take_along_axis(keys, self._order, axis=1)

    def near(self, other: Sketch, rows: Iterable[int], threshold: float) -> dict[int, int]:
        """For those of `rows` that have one, a near text of this index, by row.

        A text of the same sketch is compared with those before it only.
        """
        asked = np.array(sorted(rows), dtype=np.int64)
        asked = asked[np.diff(other.bounds)[asked] > 0]
        pairs = list(zip(self._keys, other.keys(asked), strict=True))
        low = np.array([np.searchsorted(have, want, "left") for have, want in pairs])
        high = np.array([np.searchsorted(have, want, "right") for have, want in pairs])
        found = {}
        for place in np.flatnonzero((high > low).any(axis=0)):
            row = int(asked[place])
            parts = [o[a:b] for o, a, b in zip(self._order, low[:, place], high[:, place], strict=True)]
            candidates = self.rows[np.unique(np.concatenate(parts))]
            if other is self.of:
                candidates = candidates[candidates < row]
            match = self._match(other, row, candidates, threshold)
            if match is not None:
                found[row] = match
        return found

    def _match(self, other: Sketch, row: int, candidates: Rows, threshold: float) -> int | None:
        """The first candidate that is near by exact comparison, the likeliest first."""
        alike = (self.of.signatures[candidates] == other.signatures[row]).mean(axis=1)
        # Three standard deviations of the estimate below the threshold, the chance to be near is small.
        likely = candidates[np.argsort(-alike, kind="stable")][: int((alike >= threshold - 0.15).sum())]
        mine = other.set_of(row)
        for start in range(0, len(likely), BLOCK):
            block = likely[start : start + BLOCK]
            near = self._similarity(mine, block) >= threshold
            if near.any():
                return int(block[near.argmax()])
        return None

    def _similarity(self, mine: Hashes, rows: Rows) -> NDArray[np.float64]:
        """Exact Jaccard similarity of a set and the sets of some texts."""
        theirs = [self.of.set_of(row) for row in rows]
        sizes = np.array([len(one) for one in theirs])
        flat = np.concatenate(theirs)
        there = mine[np.minimum(np.searchsorted(mine, flat), len(mine) - 1)] == flat
        shared: Rows = np.add.reduceat(there.astype(np.int64), np.cumsum(sizes) - sizes)
        return np.divide(shared, len(mine) + sizes - shared)
