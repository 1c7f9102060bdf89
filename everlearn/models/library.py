"""Decoding by transformers' own loop, for models that keep another state than keys and values of all tokens.

It pads to the left, computes a prompt once for each of its completions, and no row leaves before the last is done; what
is chosen and which seeds decide is the same as in `everlearn.models.decoding`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from everlearn.models.decoding import Ask, Bounds, Choose, Row, Told
from everlearn.models.routes import Router, placed
from everlearn.models.slots import CausalLM


class _Chooser(LogitsProcessor):
    """Chooses for the rows that are not done, and leaves their choices as the only tokens with a score."""

    def __init__(self, rows: Sequence[Row], choose: Choose, bounds: Bounds) -> None:
        self.rows, self.choose, self.bounds = rows, choose, bounds

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (n, V) with one finite number in each row."""
        going = [place for place, row in enumerate(self.rows) if not self.bounds.over(row)]
        chosen, logprobs = self.choose(scores[going], [self.rows[place] for place in going])
        for place, number in enumerate(going):
            self.rows[number].tokens.append(chosen[place])
            self.rows[number].logprobs += logprobs[place : place + 1]
        # a row that is over says its end, or the loop would wait for it up to the longest row's limit
        said = [self.bounds.ends[0]] * len(self.rows)
        for number in going:
            said[number] = self.rows[number].tokens[-1]
        last = torch.tensor(said, device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(-1, last, 0.0)


def decode_by_library(
    module: CausalLM, asks: Sequence[Ask], choose: Choose, bounds: Bounds, told: Told, router: Router | None = None
) -> list[list[Row]]:
    """The rows of each ask, in order; as `everlearn.models.decoding.Decoder.run`.

    Nothing of a model's own generation settings (temperature, repetition penalty, beams) is used.
    """
    groups = [[Row(ask, seed) for seed in ask.seeds] for ask in asks]
    for batch in _batches(asks, bounds):
        rows = [row for i in batch for row in groups[i]]
        with placed(router, [row.ask.weights for row in rows]):
            _generate(module, rows, _Chooser(rows, choose, bounds))
        told(len(rows))
    return groups


def _generate(module: CausalLM, rows: Sequence[Row], chooser: _Chooser) -> None:
    width, ends = max(len(row.ask.prompt) for row in rows), chooser.bounds.ends
    device = module.get_input_embeddings().weight.device
    prompts = [[ends[0]] * (width - len(row.ask.prompt)) + list(row.ask.prompt) for row in rows]
    mask = [[0] * (width - len(row.ask.prompt)) + [1] * len(row.ask.prompt) for row in rows]
    most = max(chooser.bounds.most(row.ask) for row in rows)
    ours = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=most, do_sample=False, num_beams=1, eos_token_id=list(ends), pad_token_id=ends[0]
    )
    own, module.generation_config = module.generation_config, ours  # else its own fill what ours leaves open
    try:
        module.generate(
            torch.tensor(prompts, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=ours,
            logits_processor=LogitsProcessorList([chooser]),
        )
    finally:
        module.generation_config = own


def _batches(asks: Sequence[Ask], bounds: Bounds) -> Iterator[list[int]]:
    """Asks with prompts of like length, the longest first."""
    batch: list[int] = []
    for i in sorted(range(len(asks)), key=lambda i: (-bounds.width(asks[i]), -len(asks[i].prompt), i)):
        rows = sum(len(asks[j].seeds) for j in (*batch, i))
        if batch and rows * bounds.width(asks[batch[0]]) > bounds.batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
