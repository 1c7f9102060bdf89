"""A batch that a trainer has made, as one of ours: the tokens that it reads and those that it supervises."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.errors import MethodError
from everlearn.examples import Batch, Encoded, Example

Inputs = Mapping[str, Any]
Index = Mapping[tuple[int, ...], Example]
"""Examples by their tokens: all of them where `labels` supervise, and those of the prompt where a mask does."""


def batch_of(inputs: Inputs, index: Index) -> Batch:
    """What a step's inputs of TRL's trainers say, each text in a row of its own, on the CPU.

    Supervised are the tokens with labels (SFT), the completions chosen and rejected (DPO), and the completions that
    were sampled, without those of tools and of rows that are masked (GRPO).

    Args:
        inputs: as `compute_loss` gets them.
        index: the examples that they were made of.

    Raises:
        MethodError: if there are inputs other than text, or a row is none of the examples'.
    """
    seen = sorted(name for name in inputs if name.startswith(("pixel", "image")) and inputs[name] is not None)
    if seen:
        raise MethodError(f"the batch holds {seen[0]}, and the methods' terms read text alone; leave images out.")
    rows = []
    for tokens, supervised in _texts(inputs):
        encoded = Encoded(tokens, supervised)
        rows.append(Row((encoded,), (_example(encoded, "labels" in inputs, index),)))
    return collate(rows)


def _texts(inputs: Inputs) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Tokens and targets of each text, without padding."""
    if "completion_ids" in inputs:
        yield from _sampled(inputs)
        return
    tokens = inputs["input_ids"]
    targets = inputs["labels"] != -100 if "labels" in inputs else inputs["completion_mask"].bool()
    if "attention_mask" in inputs:
        for row, (there, target) in enumerate(zip(inputs["attention_mask"].bool(), targets, strict=True)):
            yield _pair(tokens[row][there], target[there])
        return
    starts = [*(inputs["position_ids"][0] == 0).nonzero().flatten().tolist(), tokens.shape[1]]
    for start, stop in pairwise(starts):  # texts beside each other, in one row
        yield _pair(tokens[0, start:stop], targets[0, start:stop])


def _sampled(inputs: Inputs) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    own = inputs["completion_mask"].bool()
    taught = own & inputs["tool_mask"].bool() if "tool_mask" in inputs else own
    for row, (asked, there) in enumerate(zip(inputs["prompt_mask"].bool(), own, strict=True)):
        prompt, _ = _pair(inputs["prompt_ids"][row][asked], asked[asked])
        answer, targets = _pair(inputs["completion_ids"][row][there], taught[row][there])
        yield prompt + answer, (False,) * len(prompt) + targets


def _pair(tokens: Tensor, targets: Tensor) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    return tuple(tokens.tolist()), tuple(targets.tolist())


def _example(encoded: Encoded, whole: bool, index: Index) -> Example:
    first = encoded.supervised.index(True) if True in encoded.supervised else len(encoded.tokens)
    found = index.get(encoded.tokens if whole else encoded.tokens[:first])
    if found is None:
        raise MethodError(
            f"a batch holds {len(encoded.tokens)} tokens that are no row of the lesson's: they were cut, or the "
            "trainer renders the prompt otherwise. Leave max_length and packing so that rows stay whole, and give the "
            "trainer no chat template of its own."
        )
    return found
