"""What must hold of every routed model: a document is answered as if it were alone, however it is read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.examples import Encoded
from everlearn.models.decoding import Ask
from everlearn.models.generate import generate_asked
from everlearn.models.language_model import LanguageModel
from tests.models.lively import some_prompts

TEXTS = [([7, 8, 9, 10], 2), ([20, 9, 7], 1), ([8, 7, 6, 5, 9, 9], 3), ([30, 7], 1)]


def document(tokens: Sequence[int], prompt: int) -> Encoded:
    return Encoded(tuple(tokens), tuple(place >= prompt for place in range(len(tokens))))


def logprobs(model: LanguageModel, rows: Sequence[Row], shared: bool = False) -> Tensor:
    with torch.no_grad():
        return model.token_logprobs(collate(rows, shared))


def require_alone_among_neighbours(model: LanguageModel, task: str = "") -> None:
    """Packed equals padded equals alone, a shared prompt equals separate rows, slots equal whole passes."""
    assert model.packs
    assert model.splits_head
    documents = [document(tokens, prompt) for tokens, prompt in TEXTS]
    alone = torch.cat([logprobs(model, [Row((d,), task=task)]) for d in documents])
    padded = logprobs(model, [Row((d,), task=task) for d in documents])
    packed = logprobs(model, [Row(tuple(documents[:3]), task=task), Row(tuple(documents[3:]), task=task)])
    assert torch.allclose(alone, padded, atol=1e-10, rtol=0)
    assert torch.allclose(alone, packed, atol=1e-10, rtol=0)
    prompt, answers = [4, 5, 6], ([9, 9, 7], [8], [7, 9])
    apart = logprobs(model, [Row((document([*prompt, *a], 3),), task=task) for a in answers])
    branches = (document(prompt[:2], 2), *(document([6, *a], 1) for a in answers))
    assert torch.allclose(apart, logprobs(model, [Row(branches, task=task)], shared=True), atol=1e-10, rtol=0)
    prompts = [*some_prompts(4, 3), *some_prompts(4)]
    expected = [greedy(model, p, 5, task) for p in prompts]
    for budget in (40, 4096):
        found = generate_asked(model, [Ask(p, limit=5, task=task) for p in prompts], budget)
        assert found == model.tokenizer.batch_decode(expected, skip_special_tokens=True)


def greedy(model: LanguageModel, prompt: Sequence[int], limit: int, task: str = "") -> list[int]:
    """Greedy decoding, each token by a routed pass over all before it."""
    tokens, end = list(prompt), model.tokenizer.eos_token_id
    while len(tokens) < len(prompt) + limit and tokens[len(prompt) :][-1:] != [end]:
        batch = collate([Row((document([*tokens, 0], len(prompt)),), task=task)])
        with torch.no_grad():
            tokens.append(int(model._logits(batch)[0, -2].argmax()))
    return tokens[len(prompt) :]


def stir(model: LanguageModel, size: float = 0.3) -> None:
    """Give what learns large random values, so that where a document is sent matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if any(mark in name for mark in (".A.", ".B.", "prompts", "keys", "gate", "encoder", "everlearn")):
                parameter.normal_(std=size)
