"""By what documents are preferred: how new, how varied, how near to a task, how much is left to learn from them.

A criterion gives each document a number; those with higher ones are kept sooner.
"""

import math
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.data.overlap import words
from everlearn.data.packing import rows_alone
from everlearn.data.sequences import each
from everlearn.data.sources import read
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.models.features import prompt_features
from everlearn.models.language_model import LanguageModel

TOGETHER = 256
"""Documents in memory at a time."""


@dataclass(frozen=True)
class DocumentReader:
    """A model as a reader of documents.

    Args:
        model: who reads.
        length: of a longer document its first so many tokens are read.
        tokens: most tokens in one forward pass.
    """

    model: LanguageModel
    length: int = 1024
    tokens: int = 4096

    def losses(self, documents: Sequence[Example]) -> Iterator[tuple[float, int]]:
        """For each document the sum of its tokens' losses in nats, and the number of tokens that were foreseen."""
        found: dict[int, tuple[float, int]] = {}
        encoded = [(self.model.encode(e), e) for e in documents]
        with torch.no_grad():
            for group, batch in rows_alone(encoded, self.length, self.tokens):
                counts = batch.supervised.sum(1).tolist()
                parts = torch.split(-self.model.token_logprobs(batch).double().cpu(), counts)
                found |= {i: (float(part.sum()), n) for i, part, n in zip(group, parts, counts, strict=True)}
        yield from (found[i] for i in range(len(encoded)))


Told = Callable[[int], None]
"""Who wants to know how many documents were read."""


@runtime_checkable
class Criterion(Protocol):
    """Prefers some documents to others. Frozen data."""

    def scores(self, documents: Sequence[Example], reader: DocumentReader, told: Told) -> Tensor:
        """(N,) in float64, on the CPU; higher is preferred.

        Args:
            documents: may be a lazy sequence over files larger than memory.
            reader: the model that is to learn from them, before it does.
            told: after each part how many documents of all were read.
        """


@dataclass(frozen=True)
class Novelty:
    """The mean loss of a document's tokens under the model as it is, in nats: the log of its perplexity.

    One half of what DACP calls task-agnostic selection (arXiv:2311.08545, 2.2). Noise is novel too: use it with
    `Quality` and another criterion.
    """

    def scores(self, documents: Sequence[Example], reader: DocumentReader, told: Told) -> Tensor:
        """See `Criterion`; a document of one token scores 0."""
        return _all(documents, lambda part: (loss / max(n, 1) for loss, n in reader.losses(part)), told)


@dataclass(frozen=True)
class Learnability:
    """How much worse the model foresees a document than a reference does that knows the domain, in nats per byte.

    The mean of log p_reference - log p_model: what can be learned, where `Novelty` prefers noise that nobody foresees
    (RHO-LOSS, arXiv:2206.07137, eq. 3, for whole documents; Rho-1 has it by token). Per byte, since the two may cut
    texts into other tokens. Both read the first `length` of their own tokens; longer documents are cut in files.

    Args:
        reference: a model's name or directory.
    """

    reference: str

    def scores(self, documents: Sequence[Example], reader: DocumentReader, told: Told) -> Tensor:
        """See `Criterion`."""
        weight = next(reader.model.module.parameters())
        dtype = str(weight.dtype).removeprefix("torch.")
        other = replace(reader, model=LanguageModel.open(self.reference, dtype, str(weight.device)))

        def gains(part: Sequence[Example]) -> Iterator[float]:
            for e, (ours, _), (theirs, _) in zip(part, reader.losses(part), other.losses(part), strict=True):
                yield (ours - theirs) / max(len(e.text.encode()), 1)

        return _all(documents, gains, told)


@dataclass(frozen=True)
class WordEntropy:
    """The entropy of the words of a document, in nats: how varied it is.

    The other half of task-agnostic selection in DACP (arXiv:2311.08545, 2.2), which takes the entropy of parts of
    speech; that needs a tagger for each language, and this needs none. Longer documents have more of it: choose among
    documents of like lengths.
    """

    def scores(self, documents: Sequence[Example], reader: DocumentReader, told: Told) -> Tensor:
        """See `Criterion`."""
        return _all(documents, lambda part: (_entropy(words(e.text)) for e in part), told)


@dataclass(frozen=True)
class Similarity:
    """The cosine between a document and the mean of a task's rows, as the model sees them.

    DACP's task-aware selection (arXiv:2311.08545, 2.1). A point is the mean of the last hidden states; of a row with an
    answer that of its prompt.

    Args:
        to: a file, folder or hub data set with rows of the task, none of them its test rows.
        rows: most of them that are read.
    """

    to: str
    rows: int = 512

    def scores(self, documents: Sequence[Example], reader: DocumentReader, told: Told) -> Tensor:
        """See `Criterion`."""
        task = read(self.to).examples[: self.rows]
        centre = _points(task, reader).mean(0)
        centre = centre / centre.norm().clamp_min(torch.finfo(torch.float64).tiny)
        return _all(documents, lambda part: (_points(part, reader) @ centre).tolist(), told)


@dataclass(frozen=True)
class Importance:
    """The log of how much likelier a document is in a target than among all documents, by its words.

    DSIR (arXiv:2302.03169, 3): a bag of words and pairs of words, hashed into buckets; log w = sum over the document's
    words and pairs of log p_target - log p_all. With `how="gumbel"` of a selection it is the paper's resampling. The
    counts are smoothed by one in all, shared among the buckets, where the paper's code adds 1e-8 to each probability.

    Args:
        to: a file, folder or hub data set with texts of the target.
        buckets: how many.
    """

    to: str
    buckets: int = 10_000

    def __post_init__(self) -> None:
        """Refuse a bag without room."""
        if self.buckets < 1:
            raise ConfigError(f"Importance: buckets={self.buckets}; 1 or more.")

    def scores(self, documents: Sequence[Example], reader: DocumentReader, told: Told) -> Tensor:
        """See `Criterion`; all documents are read twice."""
        target, rest = self._logs(read(self.to).examples), self._logs(documents)
        ratio = target - rest
        return _all(documents, lambda part: (float(ratio[self._bag(e)].sum()) for e in part), told)

    def _logs(self, texts: Sequence[Example]) -> NDArray[np.float64]:
        counts = np.zeros(self.buckets)
        for e in texts:
            np.add.at(counts, self._bag(e), 1.0)
        if not counts.any():
            raise DataError(f"Importance: {self.to} or the documents have no word in them.")
        log: NDArray[np.float64] = np.log((counts + 1 / self.buckets) / (counts.sum() + 1))
        return log

    def _bag(self, example: Example) -> NDArray[np.int64]:
        """The bucket of each word and of each pair of words."""
        text = example.text or "\n".join(message.content for message in example.messages)
        said = words(text)
        pairs = [f"{one} {other}" for one, other in pairwise(said)]
        return np.array([zlib.crc32(gram.encode()) % self.buckets for gram in said + pairs], dtype=np.int64)


def _all(documents: Sequence[Example], scores: Callable[[Sequence[Example]], Iterable[float]], told: Told) -> Tensor:
    """The scores of all documents, read part by part."""
    found = array("d")
    for start in range(0, len(documents), TOGETHER):
        found.extend(scores(list(each(documents, range(start, min(start + TOGETHER, len(documents)))))))
        told(len(found))
    return torch.tensor(found, dtype=torch.float64)


def _entropy(said: Sequence[str]) -> float:
    counts = Counter(said)
    return -sum(count / len(said) * math.log(count / len(said)) for count in counts.values())


def _points(examples: Sequence[Example], reader: DocumentReader) -> Tensor:
    return prompt_features(reader.model, examples, reader.length, reader.tokens).double()
