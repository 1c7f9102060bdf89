"""Three domains of real text, cut into documents, and how well a model foresees them, in bits per byte."""

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from sysconfig import get_path

from everlearn.data.render import render
from everlearn.data.sequences import select
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.metrics.likelihood import TokenLikelihood
from everlearn.models.load import Tokenizer
from everlearn.objectives.next_token import NextToken
from everlearn.randomness import permutation
from everlearn.types import Experience, Outcome, Stream

LETTERS = 800
"""Of a document: one row of 256 tokens, about."""
PARTS = (0.0, 0.7, 0.8, 1.0)
"""Where the stretches of a text begin that are learned from, looked at on the way, and tested on."""
FILES = {"shakespeare": ("shakespeare.txt",), "wikipedia": ("wikitext2-valid.txt", "wikitext2-test.txt")}
DOMAINS = (*FILES, "library")


def texts(domain: str, folder: Path) -> str:
    """The whole of a domain; "library" is the source of Python's own library, which every machine has.

    Raises:
        ConfigError: if the folder lacks a file.
    """
    files = [folder / name for name in FILES[domain]] if domain in FILES else _library()
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"--text {folder}: there is no {missing}; name the folder of the texts.")
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def _library() -> list[Path]:
    """Its modules, mixed: the alphabet would put the same kind into a stretch."""
    found = sorted(Path(get_path("stdlib")).glob("[a-z]*.py"))
    return [found[i] for i in permutation(len(found), "modules")]


def pieces(text: str, letters: int = LETTERS) -> tuple[tuple[str, ...], ...]:
    """The documents of each of a text's stretches, see PARTS; none stands twice, in one stretch or in two.

    Args:
        text: all of it.
        letters: of each document.
    """
    cut = list(dict.fromkeys(text[i : i + letters] for i in range(0, len(text) - letters + 1, letters)))
    ends = [round(share * len(cut)) for share in PARTS]
    return tuple(tuple(cut[start:end]) for start, end in pairwise(ends))


def domain_experience(domain: str, text: str, seed: int, counts: tuple[int, int, int], validating: bool) -> Experience:
    """A domain's documents: those to learn from are drawn by the seed, the others are the same for all.

    Args:
        domain: its name.
        text: all of it.
        seed: of the draw.
        counts: documents to learn from, to look at on the way, and of the test.
        validating: whether documents to look at stand in the test's place, as many as there are in it.
    """
    draws: tuple[tuple[str | int, ...], ...] = (("learned", seed), ("watched",), ("asked",))
    parts = []
    for stretch, count, parted in zip(pieces(text), counts, draws, strict=True):
        if count > len(stretch):
            raise ConfigError(f"{domain} has {len(stretch)} documents in a stretch, not {count}; ask for fewer.")
        order = permutation(len(stretch), domain, *parted)
        parts.append([Example(text=stretch[i], source=domain, origin=domain) for i in order])
    train, watched, asked = parts
    test = watched[counts[1] : counts[1] + counts[2]] if validating else asked[: counts[2]]
    return Experience(
        domain, tuple(train[: counts[0]]), tuple(test), NextToken(), TokenLikelihood(), tuple(watched[: counts[1]])
    )


def domain_stream(folder: Path, seed: int, counts: tuple[int, int, int], validating: bool = False) -> Stream:
    """The domains in turn; see `domain_experience`."""
    made = (domain_experience(name, texts(name, folder), seed, counts, validating) for name in DOMAINS)
    return Stream(tuple(made), name=f"domains-{seed}")


def together(stream: Stream, seed: int) -> Stream:
    """All domains as one experience, mixed; the order of its tests is the domains'."""
    train, test, watched = (
        tuple(example for experience in stream for example in getattr(experience, part))
        for part in ("train", "test", "validation")
    )
    mixed = select(train, permutation(len(train), "together", seed))
    return Stream((Experience("together", mixed, test, NextToken(), TokenLikelihood(), watched),), name=stream.name)


def nats(outcomes: Sequence[Outcome], tests: Sequence[Example], tokenizer: Tokenizer) -> list[float]:
    """Of each document the sum of its tokens' losses: `TokenLikelihood` is exp of minus their mean.

    Args:
        outcomes: by `TokenLikelihood`.
        tests: the same documents.
        tokenizer: of the model; a document's first token is foreseen by nothing.
    """
    counts = [sum(render(tokenizer, example).supervised) for example in tests]
    return [-math.log(outcome.score) * count for outcome, count in zip(outcomes, counts, strict=True)]


def bits_per_byte(losses: Sequence[float], sizes: Sequence[int]) -> float:
    """Of a corpus: the sum of its documents' losses in nats over the sum of their bytes and over ln 2.

    Args:
        losses: of each document, the sum over its tokens.
        sizes: UTF-8 bytes of each.
    """
    return math.fsum(losses) / math.fsum(sizes) / math.log(2)


def gain_interval(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]]
) -> tuple[float, float, float]:
    """The change of the mean bits per byte over domains, with the 95 % bootstrap interval over their documents.

    The same documents are drawn for both, within each domain.

    Args:
        ours: for each domain the losses of its documents, in nats.
        theirs: of another version.
        sizes: UTF-8 bytes of the documents.

    Returns:
        Our mean minus theirs, and the ends of the interval.
    """
    changes = [[a - b for a, b in zip(one, other, strict=True)] for one, other in zip(ours, theirs, strict=True)]
    rng, draws = random.Random("documents"), []
    for _ in range(1000):
        means = []
        for change, bytes_ in zip(changes, sizes, strict=True):
            rows = rng.choices(range(len(change)), k=len(change))
            means.append(bits_per_byte([change[i] for i in rows], [bytes_[i] for i in rows]))
        draws.append(sum(means) / len(means))
    seen = sum(bits_per_byte(change, own) for change, own in zip(changes, sizes, strict=True)) / len(sizes)
    return seen, sorted(draws)[24], sorted(draws)[974]
