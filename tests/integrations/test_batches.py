"""What TRL's collators and trainers put into a batch, on two rows worked by hand."""

import pytest
import torch

from everlearn.errors import MethodError
from everlearn.examples import Batch, Example
from everlearn.integrations.batches import Index, Inputs, batch_of

ONE, TWO = Example(text="one"), Example(text="two")
WHOLE = {(1, 2, 3): ONE, (4, 5): TWO}
PROMPTS = {(1, 2): ONE, (4,): TWO}


def told(batch: Batch) -> list[tuple[list[int], list[int], str]]:
    """For each row its tokens, the targets among them and its example."""
    rows = zip(batch.tokens, batch.segments > 0, batch.supervised, batch.examples, strict=True)
    return [(t[there].tolist(), t[target].tolist(), e.text) for t, there, target, e in rows]


def tensors(**rows: list[list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values) for name, values in rows.items()}


FINE_TUNING = tensors(
    input_ids=[[1, 2, 3], [4, 5, 0]], attention_mask=[[1, 1, 1], [1, 1, 0]], labels=[[-100, 2, 3], [-100, 5, -100]]
)
PADDING_FREE = tensors(input_ids=[[1, 2, 3, 4, 5]], position_ids=[[0, 1, 2, 0, 1]], labels=[[-100, 2, 3, -100, 5]])
PREFERENCES = tensors(
    input_ids=[[1, 2, 3], [1, 2, 7]], attention_mask=[[1, 1, 1], [1, 1, 1]], completion_mask=[[0, 0, 1], [0, 0, 1]]
)
SAMPLED = tensors(
    prompt_ids=[[1, 2], [0, 4]],
    prompt_mask=[[1, 1], [0, 1]],
    completion_ids=[[3, 8, 9], [5, 0, 0]],
    completion_mask=[[1, 1, 1], [1, 0, 0]],
)
TOOLS = SAMPLED | tensors(tool_mask=[[1, 0, 1], [1, 1, 1]])
CUT = SAMPLED | tensors(completion_mask=[[1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("inputs", "index", "rows"),
    [
        (FINE_TUNING, WHOLE, [([1, 2, 3], [2, 3], "one"), ([4, 5], [5], "two")]),
        (PADDING_FREE, WHOLE, [([1, 2, 3], [2, 3], "one"), ([4, 5], [5], "two")]),
        (PREFERENCES, PROMPTS, [([1, 2, 3], [3], "one"), ([1, 2, 7], [7], "one")]),
        (SAMPLED, PROMPTS, [([1, 2, 3, 8, 9], [3, 8, 9], "one"), ([4, 5], [5], "two")]),
        (TOOLS, PROMPTS, [([1, 2, 3, 8, 9], [3, 9], "one"), ([4, 5], [5], "two")]),
        (CUT, PROMPTS, [([1, 2, 3, 8, 9], [3, 8, 9], "one"), ([4], [], "two")]),
    ],
    ids=["fine-tuning", "padding-free", "preferences", "sampled", "what tools said", "masked because cut"],
)
def test_rows_are_right_padded_and_supervised_as_the_trainer_does(
    inputs: Inputs, index: Index, rows: list[tuple[list[int], list[int], str]]
) -> None:
    assert told(batch_of(inputs, index)) == rows


def test_positions_begin_with_each_text() -> None:
    assert batch_of(SAMPLED, PROMPTS).positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 0, 0]]


def test_a_first_token_is_no_target_even_if_it_has_a_label() -> None:
    inputs = tensors(input_ids=[[4, 5]], attention_mask=[[1, 1]], labels=[[4, 5]])
    assert told(batch_of(inputs, WHOLE)) == [([4, 5], [5], "two")]


def test_a_row_that_was_cut_is_noticed() -> None:
    with pytest.raises(MethodError, match="3 tokens that are no row of the lesson's"):
        batch_of(FINE_TUNING, {(4, 5): TWO})


def test_images_are_refused() -> None:
    with pytest.raises(MethodError, match="pixel_values"):
        batch_of(FINE_TUNING | {"pixel_values": torch.zeros(1)}, WHOLE)


def test_trls_collators_make_such_batches() -> None:
    pytest.importorskip("trl", reason="needs trl: pip install 'everlearn[trl]'.")
    from trl.trainer.dpo_trainer import DataCollatorForPreference
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4, 5], "labels": [-100, 5]}]
    for free in (False, True):
        batch = batch_of(DataCollatorForLanguageModeling(pad_token_id=0, padding_free=free)(rows), WHOLE)
        assert told(batch) == [([1, 2, 3], [2, 3], "one"), ([4, 5], [5], "two")]
    pairs = [{"prompt_ids": [4], "chosen_ids": [5, 6], "rejected_ids": [7]}]
    batch = batch_of(DataCollatorForPreference(pad_token_id=0)(pairs), PROMPTS)
    assert told(batch) == [([4, 5, 6], [5, 6], "two"), ([4, 7], [7], "two")]
