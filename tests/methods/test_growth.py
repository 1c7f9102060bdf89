"""Growth keeps the function where it says so, and versions are rebuilt from what they hold."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from everlearn.errors import ConfigError, ModelError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.growth import BlockExpansion, DepthSplice
from everlearn.models.generate import generate
from everlearn.models.growth import depth
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_model, toy_stream, toy_tokenizer
from everlearn.types import State

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=4096, epochs=2)
PROMPTS = [[7, 8, 9], [10, 11, 12, 13], [20]]


def names(model: LanguageModel) -> list[str]:
    return [name for name, _ in model.module.get_submodule("model.layers").named_children()]


def told(model: LanguageModel) -> torch.Tensor:
    ctx = Context(model, toy_stream().experiences[0])
    with torch.no_grad():
        return torch.cat([model.token_logprobs(b) for b in ctx.batches(ctx.experience.train)])


def test_new_blocks_stand_behind_every_so_many_th_and_alone_learn() -> None:
    model = BlockExpansion(every=1).params(None, toy_model())
    assert names(model) == ["0", "0_copy", "1", "1_copy"]
    assert {n.split(".")[2] for n in model.trainable()} == {"0_copy", "1_copy"}
    assert names(BlockExpansion(every=2).params(None, toy_model())) == ["0", "1", "1_copy"]


def test_expansion_keeps_the_function_and_the_answers() -> None:
    plain, grown = toy_model(), BlockExpansion(every=1).params(None, toy_model())
    torch.testing.assert_close(told(grown), told(plain), rtol=0, atol=1e-12)
    assert generate(grown, PROMPTS, 10) == generate(plain, PROMPTS, 10)


def test_expansion_keeps_the_function_of_a_model_that_names_its_parts_otherwise() -> None:
    sizes = {"vocab_size": 51, "n_embd": 32, "n_head": 4, "n_layer": 2, "initializer_range": 0.2}

    def model() -> LanguageModel:
        torch.manual_seed(0)
        module = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=1, bos_token_id=1)).eval()
        return LanguageModel(module, toy_tokenizer(), "gpt2")

    with pytest.raises(ModelError, match=r"no part of a block is called o_proj; its outputs are among .*c_proj"):
        BlockExpansion(every=1).params(None, model())
    grown = BlockExpansion(every=1, outputs=("c_proj",)).params(None, model())
    torch.testing.assert_close(told(grown), told(model()), rtol=0, atol=1e-5)


def test_an_expansion_that_would_change_the_function_is_refused() -> None:
    with pytest.raises(ModelError, match="change what toy computes"):
        BlockExpansion(every=1, outputs=("down_proj",)).params(None, toy_model())


def test_the_embedded_model_answers_the_same_when_it_has_grown(embedded: Path) -> None:
    plain = LanguageModel.open("embedded", "float32", "cpu")
    prompts = [plain.encode_prompt(e.prompt) for e in toy_stream(3).experiences[0].train]
    before, answers = told(plain), generate(plain, prompts, 8)
    grown = BlockExpansion().params(None, plain)
    assert depth(grown.module) == 30
    assert len(names(grown)) == 37
    torch.testing.assert_close(told(grown), before, rtol=0, atol=1e-5)
    assert generate(grown, prompts, 8) == answers


def test_a_spliced_model_runs_its_middle_twice() -> None:
    assert names(DepthSplice().params(None, toy_model())) == ["0", "1", "0_copy", "1_copy"]
    deep = BlockExpansion(every=1).params(None, toy_model())
    with pytest.raises(ModelError, match="one method that grows"):
        DepthSplice().params(None, deep)


def test_a_splice_drops_blocks_at_the_seam() -> None:
    # Of 8 blocks 2 are dropped: 0 to 5, then 2 to 7.
    sizes = {"vocab_size": 51, "n_embd": 8, "n_head": 2, "n_layer": 8}
    model = LanguageModel(GPT2LMHeadModel(GPT2Config(**sizes)).eval(), toy_tokenizer(), "gpt2")
    DepthSplice(dropped=0.25).params(None, model)
    found = [name for name, _ in model.module.get_submodule("transformer.h").named_children()]
    assert found == ["0", "1", "2", "3", "4", "5", "2_copy", "3_copy", "4_copy", "5_copy", "6", "7"]
    assert len(model.trainable()) == len(model.parameters())


def learned(method: Method, model: LanguageModel) -> State:
    learner = Learner("toy", method, RECIPE)
    state = learner.start(model)
    for experience in toy_stream().experiences[:2]:
        state = learn(learner, model, state, experience)
    return state


@pytest.mark.parametrize(
    "method",
    [BlockExpansion(every=1), DepthSplice(), chain(BlockExpansion(every=2), LoRA(rank=2))],
    ids=["expansion", "splice", "adapters"],
)
def test_a_version_is_rebuilt_to_the_bit_and_answers_the_same(method: Method) -> None:
    model = toy_model()
    state = learned(method, model)
    again = Learner("toy", method, RECIPE).restore(toy_model(), state)
    assert torch.equal(told(again), told(model))
    assert generate(again, PROMPTS, 10) == generate(model, PROMPTS, 10)
    assert float((told(model) - told(toy_model())).abs().max()) > 0.1


def test_a_version_of_an_expanded_model_holds_its_new_blocks_alone() -> None:
    model = toy_model()
    base = {n: p.detach().clone() for n, p in model.parameters().items()}
    state = learned(BlockExpansion(every=2), model)
    assert {n.split(".")[2] for n in state.weights} == {"1_copy"}
    assert all(torch.equal(model.parameters()[n], p) for n, p in base.items())


def test_old_weights_fit_a_model_that_has_grown() -> None:
    plain = toy_model(seed=1)
    weights = {n: p.detach() for n, p in plain.parameters().items()}
    grown = BlockExpansion(every=1).params(None, toy_model(seed=1))
    nn.init.zeros_(grown.module.get_parameter("model.layers.1.mlp.up_proj.weight"))
    grown.assign(weights)
    torch.testing.assert_close(told(grown), told(plain), rtol=0, atol=1e-12)


def test_what_would_not_grow_is_refused() -> None:
    with pytest.raises(ModelError, match="lower `every`"):
        BlockExpansion(every=3).params(None, toy_model())
    for wrong in (
        lambda: BlockExpansion(every=0),
        lambda: BlockExpansion(outputs=()),
        lambda: DepthSplice(dropped=0.5),
    ):
        with pytest.raises(ConfigError, match=r"1 or more|in \[0, 0\.5\)"):
            wrong()
