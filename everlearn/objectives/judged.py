"""Preferences in tokens, as rows to learn from: a pair's answers share their prompt where the model packs documents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everlearn.data.packing import Row, collate, split_by_tokens
from everlearn.data.preferences import verdicts, weight_of
from everlearn.errors import DataError
from everlearn.examples import Batch, Encoded, Example
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.criteria import Judged
from everlearn.objectives.groups import attempts_of


@dataclass(frozen=True)
class Case:
    """A preference in tokens.

    Args:
        example: the preference.
        prompt: its tokens, one at least.
        answers: each answer's tokens, with the one that ends it.
        good: for each answer.
        weight: what it counts for.
    """

    example: Example
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    good: tuple[bool, ...]
    weight: float = 1.0


def case_of(model: LanguageModel, example: Example, length: int) -> Case:
    """An example in tokens.

    Args:
        model: whose tokens.
        example: a pair or a judged answer.
        length: most tokens of a prompt and one answer.

    Raises:
        DataError: if it is no preference, or too long.
    """
    judged = verdicts(example)
    found = [model.encode_choice(example.prompt, answer) for answer, _ in judged]
    size = max(len(prompt) + len(answer) for prompt, answer in found)
    if size > length:
        raise DataError(
            f"{example.source or example.key} has {size} tokens, more than length={length}; raise the recipe's length "
            "or drop the row."
        )
    good = tuple(good for _, good in judged)
    return Case(example, found[0][0], tuple(answer for _, answer in found), good, weight_of(example))


def mismatched(cases: Sequence[Case]) -> list[Case]:
    """Each prompt with the answers of the next one, the last with those of the first; none where there is one alone."""
    turned = [*cases[1:], *cases[:1]] if len(cases) > 1 else []
    return [replace(case, answers=o.answers, good=o.good) for case, o in zip(cases, turned, strict=False)]


def batches_of(cases: Sequence[Case], packs: bool, tokens: int, paired: bool) -> list[Batch]:
    """Batches whose supervised tokens are the answers', with `good` and `weight` as values.

    Args:
        cases: what to lay out.
        packs: whether documents may share a row: a prompt then stands first, and each answer continues it.
        tokens: most tokens of a batch, padding counted; a row that shares its prompt, or a pair's two rows, at least.
        paired: whether a pair's answers have to stay together; a pair then counts once, an answer otherwise.
    """
    if packs:
        rows = [_shared(case, case.weight * (1 if paired else len(case.answers))) for case in cases]
        return [collate([rows[i] for i in group], shared=True) for group in split_by_tokens(rows, tokens)]
    alone = [[_alone(case, i, paired) for i in range(len(case.answers))] for case in cases]
    units = alone if paired else [[row] for rows in alone for row in rows]
    tied = max(map(len, units), default=1)
    groups = split_by_tokens([max(unit, key=len) for unit in units], tokens // tied)
    return [replace(collate([row for i in group for row in units[i]]), tied=tied) for group in groups]


def _shared(case: Case, count: float) -> Row:
    """One row: the prompt but its last token, and behind that token each answer."""
    *before, last = case.prompt
    documents = [Encoded(tuple(before), (False,) * len(before))]
    documents += [Encoded((last, *a), (False,) + (True,) * len(a)) for a in case.answers]
    sizes = [len(before), *(1 + len(a) for a in case.answers)]
    values = {
        "good": [float(good) for size, good in zip(sizes, (False, *case.good), strict=True) for _ in range(size)],
        "weight": [case.weight] * sum(sizes),
    }
    return Row(tuple(documents), (case.example,), values=values, count=count)


def _alone(case: Case, index: int, paired: bool) -> Row:
    answer, before = case.answers[index], len(case.prompt)
    document = Encoded(case.prompt + answer, (False,) * before + (True,) * len(answer))
    size = len(document.tokens)
    values = {"good": [float(case.good[index])] * size, "weight": [case.weight] * size}
    return Row((document,), (case.example,), values=values, count=case.weight / (2 if paired else 1))


def judged_of(batch: Batch, logprobs: Tensor) -> Judged:
    """A batch's answers, from (N,) log-probabilities of their tokens."""
    number = attempts_of(batch).to(logprobs.device)
    count = int(number.max()) + 1

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(count).index_add(0, number, values)

    lengths = torch.bincount(number, minlength=count).to(logprobs)
    values = {
        name: summed(batch.at_targets(name).to(logprobs)) if name in batch.values else torch.zeros_like(lengths)
        for name in ("reference", "good", "baseline")
    }
    good = values["good"] > lengths / 2  # all of an answer's tokens say the same
    return Judged(summed(logprobs), values["reference"], lengths, good, values["baseline"] / lengths)


def weights_of(batch: Batch, paired: bool) -> Tensor:
    """What each pair, (S / 2,), or each answer, (S,), counts for."""
    number = attempts_of(batch)
    found = torch.zeros(int(number.max()) + 1, dtype=torch.float64).index_copy(0, number, batch.at_targets("weight"))
    return found[::2] if paired else found
