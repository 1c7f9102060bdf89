import json
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from everlearn.errors import ModelError
from everlearn.models.lora import adapters, wrap
from everlearn.models.peft_format import load_peft, save_peft


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2))


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=64, n_positions=32, initializer_range=0.2)
    return GPT2LMHeadModel(config)


def tokens() -> Tensor:
    return torch.arange(24).reshape(2, 12) * 5 % 64


def logits(module: nn.Module) -> Tensor:
    with torch.inference_mode():
        return module.eval()(tokens()).logits


def theirs(folder: Path, module: nn.Module | None = None, **settings: object) -> Tensor:
    """Save an adapter with PEFT as training might leave it; the logits it has there."""
    torch.manual_seed(3)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | settings
    wrapped = peft.get_peft_model(module or llama(), peft.LoraConfig(**settings))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    return logits(wrapped)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("some", [True, False])
def test_peft_loads_ours_and_gives_the_same_logits(tmp_path: Path, make: type, some: bool) -> None:
    module = make()
    plain = logits(module)
    one = {llama: "model.layers.1.mlp.up_proj", gpt2: "transformer.h.1.mlp.c_fc"}[make]
    wrap(module, [one] if some else "all-linear", 4, 6.0)
    for adapter in adapters(module).values():
        nn.init.normal_(adapter.B, std=0.2)
    save_peft(module, tmp_path, "somebody/base")
    loaded = peft.PeftModel.from_pretrained(make(), str(tmp_path))
    assert len([m for m in loaded.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]) == len(adapters(module))
    assert (logits(loaded) - logits(module)).abs().max() < 1e-5
    assert (logits(module) - plain).abs().max() > 0.1
    assert loaded.peft_config["default"].base_model_name_or_path == "somebody/base"


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"lora_dropout": 0.1}, {"layers_to_transform": [1]}])
def test_we_load_pefts_and_give_the_same_logits(tmp_path: Path, settings: dict[str, object]) -> None:
    expected = theirs(tmp_path, **settings)
    module = llama()
    found = load_peft(module, tmp_path)
    assert len(found) == (2 if "layers_to_transform" in settings else 4)
    assert (logits(module) - expected).abs().max() < 1e-5
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {f"{n}.{m}" for n in found for m in "AB"}


def test_we_load_pefts_onto_gpt2(tmp_path: Path) -> None:
    expected = theirs(tmp_path, gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    module = gpt2()
    load_peft(module, tmp_path)
    assert (logits(module) - expected).abs().max() < 1e-5


def test_what_is_saved_loads_again_bit_for_bit_also_onto_a_wrapped_model(tmp_path: Path) -> None:
    module, other = llama(), llama()
    wrap(module, "all-linear", 4, 6.0)
    for adapter in adapters(module).values():
        nn.init.normal_(adapter.B, std=0.2)
    save_peft(module, tmp_path, "base")
    wrap(other, "all-linear", 4, 6.0)
    load_peft(other, tmp_path)
    assert torch.equal(logits(other), logits(module))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # PEFT's, while it saves the last of these
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"target_modules": ["embed_tokens"]}, "embed"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_its_setting(
    tmp_path: Path, settings: dict[str, object], named: str
) -> None:
    theirs(tmp_path, **settings)
    module = llama()
    with pytest.raises(ModelError, match=named):
        load_peft(module, tmp_path)
    assert not adapters(module)


def test_a_setting_of_the_future_is_refused(tmp_path: Path) -> None:
    theirs(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_something_new": True}))
    with pytest.raises(ModelError, match="use_something_new"):
        load_peft(llama(), tmp_path)


def test_another_method_of_peft_is_refused(tmp_path: Path) -> None:
    peft.get_peft_model(llama(), peft.IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="IA3"):
        load_peft(llama(), tmp_path)


def test_an_adapter_of_another_model_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    theirs(tmp_path)
    wide = LlamaForCausalLM(LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=64))
    with pytest.raises(ModelError, match="load the base model it was made for"):
        load_peft(wide, tmp_path)
    assert not adapters(wide)
    with pytest.raises(ModelError, match=r"no linear layer is called model\.layers"):
        load_peft(gpt2(), tmp_path)


def test_a_folder_without_a_safetensors_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"needs adapter_config\.json and adapter_model\.safetensors"):
        load_peft(llama(), tmp_path)


def test_adapters_that_are_not_alike_do_not_go_into_one_file(tmp_path: Path) -> None:
    module = llama()
    with pytest.raises(ModelError, match="0 adapters"):
        save_peft(module, tmp_path, "base")
    wrap(module, "q_proj", 4, 8.0)
    wrap(module, "v_proj", 2, 8.0)
    with pytest.raises(ModelError, match="2 different settings"):
        save_peft(module, tmp_path, "base")
