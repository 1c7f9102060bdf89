import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from everlearn.data.packing import Row, collate
from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Encoded
from everlearn.models.decoding import Ask
from everlearn.models.decoding import Row as Draft
from everlearn.models.draws import noise, race
from everlearn.models.generate import generate
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import adapters, wrap
from everlearn.models.sampling import Completion, LocalSampler, Sampling, sample, seeds
from everlearn.testing.toys import toy_tokenizer
from tests.models.lively import enders, lively_model, some_prompts, stirred

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}


def by_definition(module: nn.Module, prompt: list[int], sampling: Sampling, number: int, end: int) -> Draft:
    """Each token by a pass over all before it and the noise of its place."""
    row = Draft(Ask(prompt), seeds(sampling.seed, prompt, number + 1)[number])
    while len(row.tokens) < sampling.limit and row.tokens[-1:] != [end]:
        with torch.inference_mode():
            logits = module(input_ids=torch.tensor([prompt + row.tokens])).logits[0, -1]
        logp = (logits / sampling.temperature).log_softmax(-1)
        token = int(race(logp.exp()[None], noise([row], len(logp))))
        row.tokens.append(token)
        row.logprobs.append(float(logp[token]))
    return row


def adapted(dtype: torch.dtype) -> LanguageModel:
    """A toy that has learned something in its adapters."""
    model = lively_model(dtype=dtype)
    wrap(model.module, "all-linear", 2, 4.0)
    for adapter in adapters(model.module).values():
        nn.init.normal_(adapter.B, std=0.2)
    return model


def scored(model: LanguageModel, prompt: list[int], completion: Completion) -> torch.Tensor:
    """What a loss finds for the completion's tokens."""
    count = len(completion.tokens)
    whole = Encoded((*prompt, *completion.tokens), (False,) * len(prompt) + (True,) * count)
    with torch.inference_mode():
        return model.token_logprobs(collate([Row((whole,))]))


@pytest.mark.parametrize("batch_tokens", [1, 80, 16384])
def test_completions_are_those_of_drawing_token_by_token_by_definition(batch_tokens: int) -> None:
    model, prompts, sampling = lively_model(), some_prompts(8, 3), Sampling(0.7, limit=9, seed=3)
    found = sample(model, prompts, sampling, 3, batch_tokens)
    for prompt, group in zip(prompts, found, strict=True):
        for number, completion in enumerate(group):
            expected = by_definition(model.module, prompt, sampling, number, model.tokenizer.eos_token_id)
            assert list(completion.tokens) == expected.tokens
            assert completion.logprobs == pytest.approx(expected.logprobs, abs=1e-9)
            assert completion.finished == (expected.tokens[-1] == model.tokenizer.eos_token_id)
    assert len({len(c.tokens) for group in found for c in group}) > 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_row_gets_the_same_tokens_whatever_the_batch(dtype: torch.dtype) -> None:
    model, prompts, sampling = adapted(dtype), some_prompts(30), Sampling(limit=12, seed=1)
    usual = [[c.tokens for c in group] for group in sample(model, prompts, sampling, 4)]
    alone = [[c.tokens for c in sample(model, [p], sampling, 4, batch_tokens=1)[0]] for p in prompts]
    order = random.Random(0).sample(range(30), 30)
    mixed = sample(model, [prompts[i] for i in order], sampling, 4, batch_tokens=200)
    assert alone == usual
    assert [[c.tokens for c in group] for group in mixed] == [usual[i] for i in order]
    fewer = sample(model, prompts, sampling, 2)
    assert [[c.tokens for c in group] for group in fewer] == [group[:2] for group in usual]


def test_seeds_numbers_and_prompts_all_make_other_completions_and_a_limit_only_cuts() -> None:
    model, prompts = lively_model(), some_prompts(20)
    tokens = [c.tokens for seed in (0, 1) for g in sample(model, prompts, Sampling(limit=20, seed=seed), 3) for c in g]
    assert len(set(tokens)) > 0.9 * len(tokens)
    short = [c.tokens for g in sample(model, prompts, Sampling(limit=5), 3) for c in g]
    assert short == [t[:5] for t in tokens[: len(short)]]


def test_tokens_come_as_often_as_they_are_probable() -> None:
    model, (prompt, *_) = lively_model(), some_prompts(1)
    count = 4000
    found = Counter(c.tokens[0] for c in sample(model, [prompt], Sampling(1.3, limit=1), count)[0])
    with torch.inference_mode():
        chances = (model.module(input_ids=torch.tensor([prompt])).logits[0, -1] / 1.3).softmax(-1)
    likely = [i for i in range(len(chances)) if chances[i] * count > 5]
    chi2 = sum((found[i] - count * float(chances[i])) ** 2 / (count * float(chances[i])) for i in likely)
    assert len(likely) > 10
    assert chi2 < len(likely) + 4 * (2 * len(likely)) ** 0.5


def test_temperature_nought_is_greedy_decoding_with_log_probabilities_at_one() -> None:
    model, prompts = adapted(torch.float32), some_prompts(12)
    found = sample(model, prompts, Sampling(0.0, limit=7), 2)
    assert [group[0].text for group in found] == generate(model, prompts, 7)
    for prompt, (one, other) in zip(prompts, found, strict=True):
        assert one == other
        assert torch.tensor(one.logprobs).sub(scored(model, prompt, one)).abs().max() < 1e-4


def test_log_probabilities_at_one_are_those_that_a_loss_finds() -> None:
    model, prompts = adapted(torch.float32), some_prompts(12, 4)
    for prompt, group in zip(prompts, sample(model, prompts, Sampling(limit=10), 3), strict=True):
        for completion in group:
            assert torch.tensor(completion.logprobs).sub(scored(model, prompt, completion)).abs().max() < 1e-4


def test_top_p_draws_from_the_nucleus_alone_and_leaves_log_probabilities() -> None:
    model, prompts = lively_model(), some_prompts(6)
    for prompt, group in zip(prompts, sample(model, prompts, Sampling(limit=4, top_p=0.4), 20), strict=True):
        for completion in group:
            chances = scored(model, prompt, completion)
            assert torch.tensor(completion.logprobs).sub(chances).abs().max() < 1e-4
            with torch.inference_mode():
                whole = torch.tensor([[*prompt, *completion.tokens]])
                logits = model.module(input_ids=whole).logits[0, len(prompt) - 1 : -1].softmax(-1)
            for token, p in zip(completion.tokens, logits, strict=True):
                assert p[p > p[token]].sum() < 0.4


def test_a_groups_prompt_is_read_once_and_rows_that_wait_join_rows_that_go_on() -> None:
    model, prompts, read = lively_model(), some_prompts(12), list[tuple[int, int]]()
    sample(model, prompts[:1], Sampling(limit=1))
    model.module.model.layers[0].register_forward_hook(  # type: ignore[operator,union-attr,index]
        lambda _, given, __: read.append(tuple(given[0].shape[:2]))
    )
    found = sample(model, prompts, Sampling(limit=30), 4, batch_tokens=16 * 42)
    lengths = [[len(c.tokens) for c in group] for group in found]
    waiting = sum(max(max(group) for group in lengths[i : i + 4]) for i in range(0, 12, 4))
    assert sum(rows for rows, width in read if width > 1) <= 12
    steps = [rows for rows, width in read if width == 1]
    assert max(steps) <= 16
    assert sum(steps) == sum(map(sum, lengths)) - 48
    assert len(steps) < 0.8 * waiting  # what batches need that wait for their longest row


@pytest.mark.parametrize(
    "module",
    [
        GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=50, n_positions=64)),
        MistralForCausalLM(MistralConfig(**SIZE, **HEADS, sliding_window=5)),
        MambaForCausalLM(MambaConfig(**SIZE, state_size=4)),
    ],
    ids=["positions as weights", "sliding window", "recurrent state"],
)
def test_other_architectures_draw_as_by_definition(module: nn.Module) -> None:
    model = LanguageModel(stirred(module.double().eval(), 0.5), enders("f"), "toy")
    prompts, sampling = some_prompts(6, 2), Sampling(0.8, limit=7, seed=2)
    for prompt, group in zip(prompts, sample(model, prompts, sampling, 2, batch_tokens=60), strict=True):
        for number, completion in enumerate(group):
            expected = by_definition(model.module, prompt, sampling, number, model.tokenizer.eos_token_id)
            assert list(completion.tokens) == expected.tokens
            assert completion.logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def test_adapters_that_learn_between_two_calls_are_followed_in_half_precision() -> None:
    model, prompts = adapted(torch.bfloat16), some_prompts(4)
    sampler = LocalSampler(model)
    for _ in range(2):
        for prompt, group in zip(prompts, sampler.sample(prompts, Sampling(limit=6), 2), strict=True):
            for completion in group:
                assert torch.tensor(completion.logprobs).sub(scored(model, prompt, completion)).abs().max() < 0.1
        for adapter in adapters(model.module).values():
            adapter.B.data.mul_(-2)  # behind autograd's back


def test_a_sampler_takes_another_model() -> None:
    one, other, prompts = lively_model(0), lively_model(1), some_prompts(3)
    sampler = LocalSampler(one)
    sampler.load(other)
    assert sampler.sample(prompts, Sampling(limit=4)) == sample(other, prompts, Sampling(limit=4))
    assert sampler.sample(prompts, Sampling(limit=4)) != sample(one, prompts, Sampling(limit=4))


def test_what_cannot_be_sampled_is_refused_in_words() -> None:
    for wrong, says in (({"temperature": -1.0}, "temperature is -1"), ({"limit": 0}, "limit is 0")):
        with pytest.raises(ConfigError, match=says):
            Sampling(**wrong)
    with pytest.raises(ConfigError, match=r"top_p is 1\.5"):
        Sampling(top_p=1.5)
    with pytest.raises(ConfigError, match="n is 0"):
        sample(lively_model(), some_prompts(1), Sampling(), 0)
    short = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=50, n_positions=16))
    with pytest.raises(ModelError, match="exceed the model's 16 positions"):
        sample(LanguageModel(short, toy_tokenizer(), "toy"), [[7] * 12], Sampling(limit=5))


def test_no_prompts_have_no_completions() -> None:
    assert sample(lively_model(), [], Sampling()) == []


def test_the_embedded_model_samples_what_its_loss_scores(embedded: Path) -> None:
    model = LanguageModel.open(str(embedded), dtype="float32")
    wrap(model.module, "all-linear", 4, 8.0)
    for adapter in adapters(model.module).values():
        nn.init.normal_(adapter.B, std=0.02)
    prompts = [list(model.tokenizer(text).input_ids) for text in ("The capital of France is", "Once upon a time")]
    for prompt, group in zip(prompts, sample(model, prompts, Sampling(limit=8), 2), strict=True):
        for completion in group:
            assert torch.tensor(completion.logprobs).sub(scored(model, prompt, completion)).abs().max() < 1e-4
