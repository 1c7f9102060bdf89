import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from everlearn.data.render import render_choice, render_prompt
from everlearn.errors import ModelError
from everlearn.examples import Message
from everlearn.models.generate import VERIFIED, generate
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import adapters, wrap
from everlearn.testing.toys import toy_model, toy_tokenizer
from tests.models.lively import by_definition, enders, lively, some_prompts, stirred

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}


def probed(module: nn.Module, tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """A model that has been asked before, so that what is checked once is behind it."""
    model = LanguageModel(module, tokenizer, "toy")
    generate(model, [[7]], 1)
    return model


def texts(tokenizer: PreTrainedTokenizerFast, answers: Sequence[Sequence[int]]) -> list[str]:
    return tokenizer.batch_decode(answers, skip_special_tokens=True)


@pytest.mark.parametrize("shared", [0, 5])
@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_answers_are_those_of_greedy_decoding_by_definition(shared: int, batch_tokens: int) -> None:
    module, tokenizer, prompts = lively(), enders(), some_prompts(24, shared)
    expected = [by_definition(module, p, 9, tokenizer.eos_token_id) for p in prompts]
    assert len({len(answer) for answer in expected}) > 3
    found = generate(LanguageModel(module, tokenizer, "toy"), prompts, 9, batch_tokens)
    assert found == texts(tokenizer, expected)


def test_expected_answers_right_wrong_or_absent_change_no_answer() -> None:
    module, tokenizer, prompts = lively(), enders(), some_prompts(30, 3)
    limit = VERIFIED + 4
    answers = [by_definition(module, p, limit, tokenizer.eos_token_id) for p in prompts]
    rng = random.Random(1)
    kinds = {
        "right": answers,
        "none": [()] * 30,
        "wrong": [[7] * 6] * 30,
        "right at first": [[*a[: len(a) // 2], 49, 48, 47] for a in answers],
        "longer": [[*a, 9, 9, 9] for a in answers],
        "mixed": [a if rng.random() < 0.5 else [rng.randrange(50) for _ in range(rng.randrange(25))] for a in answers],
    }
    for kind, hints in kinds.items():
        assert generate(LanguageModel(module, tokenizer, "toy"), prompts, limit, 200, hints=hints) == texts(
            tokenizer, answers
        ), kind


def test_right_expected_answers_need_one_pass() -> None:
    module, tokenizer, prompts = lively(), enders(), some_prompts(12)
    answers = [by_definition(module, p, 8, tokenizer.eos_token_id) for p in prompts]
    model, calls = probed(module, tokenizer), list[int]()
    module.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    generate(model, prompts, 8)
    plain, calls[:] = len(calls), []
    generate(model, prompts, 8, hints=answers)
    assert len(calls) == 1
    assert plain == 8


def test_a_finished_row_leaves_its_batch() -> None:
    module, tokenizer, prompts = lively(), enders(), some_prompts(24)
    answers = [by_definition(module, p, 8, tokenizer.eos_token_id) for p in prompts]
    model, rows = probed(module, tokenizer), list[int]()
    module.model.layers[0].register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    generate(model, prompts, 8)
    assert rows == [sum(len(a) >= n for a in answers) for n in range(1, 9)]


def test_what_all_prompts_begin_with_is_read_once() -> None:
    module, tokenizer, prompts = lively(), enders(), some_prompts(10, 40)
    model, read = probed(module, tokenizer), list[int]()
    module.model.layers[0].register_forward_hook(lambda _, given, __: read.append(given[0].shape[:2].numel()))
    generate(model, prompts, 1)
    assert read == [40, 10 * (max(map(len, prompts)) - 40)]


@pytest.mark.parametrize(
    "module",
    [
        GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=50, n_positions=64)),
        GraniteForCausalLM(GraniteConfig(**SIZE, **HEADS, logits_scaling=8.0, embedding_multiplier=12.0)),
        MistralForCausalLM(MistralConfig(**SIZE, **HEADS, sliding_window=5)),
        MistralForCausalLM(MistralConfig(**SIZE, **HEADS, sliding_window=None)),
        MambaForCausalLM(MambaConfig(**SIZE, state_size=4)),
    ],
    ids=["positions as weights", "scaled scores", "sliding window", "full window", "recurrent state"],
)
def test_other_architectures_answer_as_by_definition(module: nn.Module) -> None:
    module = stirred(module.double().eval(), 0.5)
    tokenizer, prompts = enders("f"), some_prompts(8, 2)
    answers = [by_definition(module, p, 7, tokenizer.eos_token_id) for p in prompts]
    assert generate(LanguageModel(module, tokenizer, "toy"), prompts, 7, hints=answers) == texts(tokenizer, answers)
    assert len({tuple(a) for a in answers}) > 2


def test_a_models_own_generation_settings_are_not_used_and_stay() -> None:
    torch.manual_seed(0)
    module = MistralForCausalLM(MistralConfig(**SIZE, **HEADS, sliding_window=5)).double().eval()
    tokenizer, prompts = enders("f"), some_prompts(6)
    expected = texts(tokenizer, [by_definition(module, p, 7, tokenizer.eos_token_id) for p in prompts])
    own = module.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.num_beams, own.min_new_tokens = True, 9.0, 5.0, 3, 7
    assert generate(LanguageModel(module, tokenizer, "toy"), prompts, 7) == expected
    assert module.generation_config is own


def test_dropout_does_not_act_and_the_mode_is_given_back() -> None:
    module, tokenizer, prompts = lively(), enders(), some_prompts(6)
    wrap(module, "all-linear", 2, 8.0, dropout=0.5)
    for adapter in adapters(module).values():
        nn.init.normal_(adapter.B, std=0.5)
    expected = texts(tokenizer, [by_definition(module.eval(), p, 6, tokenizer.eos_token_id) for p in prompts])
    assert generate(LanguageModel(module.train(), tokenizer, "toy"), prompts, 6) == expected
    assert module.training


def test_progress_is_told_up_to_the_end() -> None:
    @dataclass
    class Heard:
        calls: list[tuple[int, int]] = field(default_factory=list)

        def update(self, stage: str, done: int, total: int, note: str = "") -> None:
            self.calls.append((done, total))

    heard = Heard()
    generate(toy_model(), some_prompts(9), 3, batch_tokens=40, progress=heard)
    assert len(heard.calls) > 1
    assert heard.calls[-1] == (9, 9)
    assert heard.calls == sorted(heard.calls)


def test_no_prompts_have_no_answers() -> None:
    assert generate(toy_model(), [], 5) == []


def test_a_prompt_beyond_the_models_positions_is_refused() -> None:
    module = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=50, n_positions=16))
    with pytest.raises(ModelError, match="12 tokens and 5 more for its answer exceed the model's 16"):
        generate(LanguageModel(module, toy_tokenizer(), "toy"), [[7] * 12], 5)


def test_the_embedded_model_answers_the_same_with_and_without_expected_answers(embedded: Path) -> None:
    model = LanguageModel.open(str(embedded), dtype="float32")
    module, tokenizer = model.module, model.tokenizer
    brief, rng = Message("system", "Answer briefly."), random.Random(0)
    asked = [f"{rng.randrange(20)} plus {rng.randrange(20)}?" for _ in range(30)]
    asked += [f"Capital of {place}?" for place in ("France", "Peru", "Japan", "Egypt", "Kenya", "Chile", "Italy")]
    asked += ["Say yes.", "Name a colour.", "Hi", "Opposite of hot?", "Spell cat."]
    turns = [(brief, Message("user", text)) for text in asked]
    prompts = [render_prompt(tokenizer, t) for t in turns]
    hints = [render_choice(tokenizer, t, "The answer is 12.")[1] for t in turns]
    plain = generate(LanguageModel(module, tokenizer, "toy"), prompts, 5)
    assert generate(LanguageModel(module, tokenizer, "toy"), prompts, 5, batch_tokens=300, hints=hints) == plain
    assert len(set(plain)) > 10
    few = [0, 31]
    alone = [by_definition(module, prompts[i], 5, tokenizer.eos_token_id) for i in few]
    assert [plain[i] for i in few] == texts(tokenizer, alone)


def test_each_answer_ends_at_its_own_limit() -> None:
    module, tokenizer, prompts = lively(), enders(), some_prompts(12)
    limits = [1 + i % 7 for i in range(12)]
    ends = tokenizer.eos_token_id
    expected = [by_definition(module, p, most, ends) for p, most in zip(prompts, limits, strict=True)]
    model = LanguageModel(module, tokenizer, "toy")
    assert generate(model, prompts, limits, batch_tokens=60) == texts(tokenizer, expected)
    assert generate(model, prompts, limits, hints=expected) == texts(tokenizer, expected)
