"""Examples as points: where a model's last hidden states put their prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from everlearn.data.packing import rows_alone
from everlearn.examples import Encoded, Example
from everlearn.models.language_model import LanguageModel


def prompt_features(model: LanguageModel, examples: Sequence[Example], length: int, tokens: int) -> Tensor:
    """The mean last hidden state over the tokens of each example's prompt, scaled to length 1.

    The prompt is what comes before the last turn, up to where the assistant begins to answer; of a document, which has
    none, it is the document itself. Of a longer prompt the first `length` tokens count.

    Args:
        model: whose hidden states; nothing of it changes.
        examples: all are in memory at once.
        length: longest row, in tokens.
        tokens: most tokens in one forward pass, padding counted.

    Returns:
        (N, D) in fp32 (fp64 for fp64 models), on the CPU.
    """
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for group, batch in rows_alone([(_prompt(model, e), e) for e in examples], length, tokens):
            hidden = model.hidden(batch)
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            inside = (batch.segments > 0).to(hidden)
            means = (hidden * inside[:, :, None]).sum(1) / inside.sum(1, keepdim=True)
            found |= dict(zip(group, torch.nn.functional.normalize(means).cpu(), strict=True))
    return torch.stack([found[i] for i in range(len(examples))])


def _prompt(model: LanguageModel, example: Example) -> Encoded:
    if example.text:
        return model.encode(example)
    tokens = model.encode_prompt(example.prompt)
    return Encoded(tokens, (False,) * len(tokens))
