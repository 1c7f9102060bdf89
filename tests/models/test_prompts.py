"""What the frozen model makes of prompts does not depend on their neighbours, on routes or on dropout."""

import torch

from everlearn.models.prompts import prompt_batches, prompt_states
from everlearn.models.routes import unrouted
from everlearn.testing.toys import toy_model
from tests.models.forked import forked_model
from tests.models.lively import some_prompts


def test_a_prompts_state_is_the_last_of_the_plain_model_read_alone() -> None:
    model, prompts = forked_model("both"), some_prompts(9)
    model.module.train()
    found = prompt_states(model, prompts)
    assert model.module.training
    model.module.eval()
    with torch.no_grad(), unrouted(model):
        for prompt, state in zip(prompts, found, strict=True):
            alone = model.module.model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]  # type: ignore[operator]
            assert torch.allclose(alone, state, atol=1e-10, rtol=0)
    assert not found.requires_grad


def test_every_prompt_is_in_one_batch() -> None:
    prompts = [[7] * 3000, [8, 9], [10] * 1200]
    found = {i: batch.tokens[row] for group, batch in prompt_batches(prompts) for row, i in enumerate(group)}
    assert [found[i][: len(p)].tolist() for i, p in enumerate(prompts)] == prompts
    assert prompt_states(toy_model(), [[7]]).shape == (1, 32)
