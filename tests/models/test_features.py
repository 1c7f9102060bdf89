"""Features are the mean hidden state of the prompt, whatever else is in the batch."""

import pytest
import torch

from everlearn.examples import Example, Message
from everlearn.models.features import prompt_features
from everlearn.testing.toys import question, toy_model

EXAMPLES = [
    question("a?", "b"),
    question("a much longer question, is it not?", "yes"),
    Example(text="the cat sat."),
    Example(
        messages=(Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    ),
]


def test_they_are_the_mean_over_the_prompts_tokens_alone() -> None:
    model = toy_model()
    found = prompt_features(model, EXAMPLES, 64, 10_000)
    for row, example in zip(found, EXAMPLES, strict=True):
        tokens = model.encode(example).tokens if example.text else model.encode_prompt(example.prompt)
        with torch.no_grad():
            mean = model.module.model(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), rtol=1e-9, atol=1e-12)


def test_they_do_not_depend_on_how_examples_are_batched() -> None:
    together, alone = (prompt_features(toy_model(), EXAMPLES, 64, tokens) for tokens in (10_000, 1))
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_a_longer_prompt_is_cut_and_the_answer_does_not_count() -> None:
    model, long = toy_model(), EXAMPLES[1]
    other = question(long.messages[0].content, "no")
    assert torch.equal(prompt_features(model, [long], 64, 99), prompt_features(model, [other], 64, 99))
    cut = prompt_features(model, [long], 5, 99)
    with torch.no_grad():
        mean = model.module.model(input_ids=torch.tensor([model.encode_prompt(long.prompt)[:5]])).last_hidden_state[0]
    assert cut[0] @ torch.nn.functional.normalize(mean.mean(0), dim=0) == pytest.approx(1.0)
