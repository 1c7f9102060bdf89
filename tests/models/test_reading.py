import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from everlearn.models.language_model import LanguageModel
from everlearn.models.reading import Reader, most_probable, reads_by_slots
from everlearn.models.slots import attending
from tests.models.lively import enders, lively, some_prompts, stirred

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}


def test_close_scores_are_told_apart_beyond_half_precision() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 64).bfloat16(), (4 + torch.randn(500, 64) / 32).bfloat16()
    exact = (hidden.double() @ weight.double().T).argmax(-1)
    assert torch.equal(most_probable(hidden, weight, None), exact)
    assert not torch.equal((hidden @ weight.T).argmax(-1), exact)
    shift = torch.zeros(500).bfloat16()
    shift[3] = 100
    assert most_probable(hidden, weight, shift).tolist() == [3] * 40


def capped() -> nn.Module:
    """Full attention whose scores are capped, which our attention does not do."""
    config = Gemma2Config(**SIZE, **HEADS, layer_types=["full_attention"] * 2, attn_logit_softcapping=0.5)
    return stirred(Gemma2ForCausalLM(config).double().eval(), 0.5)


def test_a_probe_tells_which_models_are_read_by_slots() -> None:
    mamba = MambaForCausalLM(MambaConfig(**SIZE, state_size=4)).double().eval()
    qwen = Qwen3ForCausalLM(Qwen3Config(**SIZE, **HEADS)).double().eval()
    with torch.inference_mode():
        for module, expected in ((lively(), True), (qwen, True), (mamba, False), (capped(), False)):
            assert reads_by_slots(LanguageModel(module, enders(), "toy")) == expected


def test_what_texts_begin_with_alike_is_kept_for_the_next_texts() -> None:
    model, prompts = LanguageModel(lively(), enders(), "toy"), some_prompts(20, 30)
    read: list[int] = []
    hook = model.module.model.layers[0]  # type: ignore[operator,union-attr,index]
    with torch.inference_mode(), attending(model.module):
        reader = Reader(model)
        hook.register_forward_hook(lambda _, given, __: read.append(given[0].shape[1]))
        for some in (prompts[:10], prompts[10:]):
            _, states = reader.read(some, [(row, len(text) - 1) for row, text in enumerate(some)])
            for text, state in zip(some, states, strict=True):
                alone = model.module.model(input_ids=torch.tensor([text])).last_hidden_state[0, -1]
                assert (alone - state).abs().max() < 1e-9
    assert [length for length in read if length == 30] == [30]
