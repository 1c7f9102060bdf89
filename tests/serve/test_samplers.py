from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everlearn.data.packing import Row, collate
from everlearn.errors import ModelError
from everlearn.examples import Encoded
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import adapters, wrap
from everlearn.models.sampling import Sampler, Sampling, sample
from everlearn.serve.exchange import Server
from everlearn.serve.samplers import SGLangSampler, VLLMSampler
from tests.models.lively import lively_model, some_prompts
from tests.serve.stand_in import StandIn, serving

Make = Callable[[str, Path], Sampler]


def vllm(url: str, folder: Path) -> VLLMSampler:
    return VLLMSampler(Server(url, pause=0.01), "base", folder)


def sglang(url: str, folder: Path) -> SGLangSampler:
    return SGLangSampler(Server(url, pause=0.01), folder)


BOTH = pytest.mark.parametrize("make", [vllm, sglang])


def adapted(size: float = 0.2) -> LanguageModel:
    model = lively_model()
    wrap(model.module, "all-linear", 2, 4.0)
    torch.manual_seed(5)
    for adapter in adapters(model.module).values():
        nn.init.normal_(adapter.B, std=size)
    return model


def generations(server: StandIn) -> list[dict[str, Any]]:
    return [body for path, body, _ in server.asked if path in ("/generate", "/v1/completions")]


@BOTH
def test_completions_have_tokens_and_the_log_probabilities_of_a_loss_with_the_adapters_of_the_model(
    make: Make, tmp_path: Path
) -> None:
    model, prompts = adapted(), some_prompts(5)
    with serving(StandIn()) as server:
        sampler = make(server.url, tmp_path)
        sampler.load(model)
        found = sampler.sample(prompts, Sampling(limit=6, seed=4), 3)
    assert [len(group) for group in found] == [3] * 5
    for prompt, group in zip(prompts, found, strict=True):
        assert len({c.tokens for c in group}) > 1
        for c in group:
            whole = Encoded((*prompt, *c.tokens), (False,) * len(prompt) + (True,) * len(c.tokens))
            with torch.inference_mode():
                exact = model.token_logprobs(collate([Row((whole,))]))
            assert torch.tensor(c.logprobs).sub(exact).abs().max() < 1e-4
            assert c.finished == (c.tokens[-1] == model.tokenizer.eos_token_id)
            assert c.text == model.tokenizer.decode(c.tokens, skip_special_tokens=True)


@BOTH
def test_greedy_completions_are_those_of_this_process(make: Make, tmp_path: Path) -> None:
    model, prompts = adapted(), some_prompts(6)
    with serving(StandIn()) as server:
        sampler = make(server.url, tmp_path)
        sampler.load(model)
        found = sampler.sample(prompts, Sampling(0.0, limit=5))
    ours = sample(model, prompts, Sampling(0.0, limit=5))
    assert [[c.tokens for c in g] for g in found] == [[c.tokens for c in g] for g in ours]
    assert [c.logprobs for g in found for c in g] == [pytest.approx(c.logprobs, abs=1e-6) for g in ours for c in g]


@BOTH
def test_each_load_has_a_name_of_its_own_and_the_last_one_goes(make: Make, tmp_path: Path) -> None:
    with serving(StandIn()) as server:
        sampler = make(server.url, tmp_path)
        for size in (0.1, 0.3):
            sampler.load(adapted(size))
        (name,) = set(server.models) - {"base"}
        assert [path.name for path in tmp_path.iterdir()] == [name]
        calls = [(path.rpartition("/")[2], body["lora_name"]) for path, body, _ in server.asked]
        assert [call for call, _ in calls] == ["load_lora_adapter"] * 2 + ["unload_lora_adapter"]
        assert calls[0][1] == calls[2][1] != calls[1][1] == name
        sampler.sample([[7]], Sampling(limit=1))
        assert name in str(generations(server)[-1])
        plain = lively_model()
        plain.module.requires_grad_(False)
        sampler.load(plain)
        assert set(server.models) == {"base"}
        sampler.sample([[7]], Sampling(limit=1))
        assert name not in str(generations(server)[-1])


@BOTH
def test_seeds_differ_by_completion_and_prompt_and_nothing_is_left_to_the_models_own_settings(
    make: Make, tmp_path: Path
) -> None:
    with serving(StandIn()) as server:
        sampler = make(server.url, tmp_path)
        one = sampler.sample(some_prompts(4), Sampling(0.7, limit=3), 2)
        assert sampler.sample(some_prompts(4), Sampling(0.7, limit=3), 2) == one
        assert sampler.sample(some_prompts(4), Sampling(0.7, limit=3, seed=1), 2) != one
        assert [g[:1] for g in one] == sampler.sample(some_prompts(4), Sampling(0.7, limit=3), 1)
    for body in generations(server):
        for params in body.get("sampling_params", [body]):
            assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"} <= set(params)


def test_a_server_that_reports_other_log_probabilities_than_asked_for_is_refused(tmp_path: Path) -> None:
    with serving(StandIn(processed=False)) as server:
        sampler = vllm(server.url, tmp_path)
        with pytest.raises(ModelError, match=r"at temperature 1, and 0\.7 is asked for; start it with --logprobs-mode"):
            sampler.sample([[7]], Sampling(0.7, limit=2))
        assert len(sampler.sample([[7]], Sampling(1.0, limit=2, top_p=0.9))) == 1
    with serving(StandIn(processed=True)) as server:
        sampler = vllm(server.url, tmp_path)
        assert len(sampler.sample([[7]], Sampling(0.7, limit=2))) == 1
        with pytest.raises(ModelError, match="count top_p"):
            sampler.sample([[7]], Sampling(1.0, limit=2, top_p=0.9))


@BOTH
def test_busy_moments_pass_and_refusals_are_told(make: Make, tmp_path: Path) -> None:
    with serving(StandIn(troubles=[(429, {"message": "slow down"}, {}), (503, "", {})])) as server:
        sampler = make(server.url, tmp_path)
        assert len(sampler.sample(some_prompts(3), Sampling(limit=2), 2)) == 3
        server.troubles.append((500, {"error": {"message": "out of memory"}}, {}))
        with pytest.raises(ModelError, match=r"refuses \(500\): out of memory"):
            sampler.sample(some_prompts(3), Sampling(limit=2))
        server.troubles.append((404, {"error": {"message": "LoRA is not enabled"}}, {}))
        with pytest.raises(ModelError, match=r"load_lora_adapter refuses .*LoRA is not enabled"):
            sampler.load(adapted())
        assert sampler.sample([], Sampling()) == []


@BOTH
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"choices": [{"index": 0, "text": "a", "finish_reason": "stop", "logprobs": None}]}, "another form"),
        ("<html>", "another form"),
        ([], "did not give 1 completions|another form"),
        ([{"text": "", "meta_info": {"output_token_logprobs": [], "finish_reason": {"type": "abort"}}}], "abort|form"),
    ],
)
def test_an_answer_of_another_form_is_told_as_such(make: Make, answer: object, says: str, tmp_path: Path) -> None:
    with serving(StandIn()) as server:
        sampler = make(server.url, tmp_path)
        sampler.sample([[7]], Sampling(limit=1))
        server.troubles.append((200, answer, {}))
        with pytest.raises(ModelError, match=says):
            sampler.sample([[7]], Sampling(limit=1))


def test_weights_that_are_no_adapters_are_refused(tmp_path: Path) -> None:
    model = lively_model()
    model.module.requires_grad_(True)
    with pytest.raises(ModelError, match="can follow LoRA adapters alone"):
        vllm("http://127.0.0.1:9", tmp_path).load(model)
