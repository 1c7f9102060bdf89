import torch
from transformers import MistralConfig, MistralForCausalLM

from everlearn.models.decoding import Ask, Bounds
from everlearn.models.draws import Draw
from everlearn.models.library import decode_by_library
from everlearn.models.reading import Head
from tests.models.lively import some_prompts, stirred


def test_rows_are_the_same_in_any_batch_and_a_models_own_settings_stay() -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": 5}
    config = MistralConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, **heads)
    module, told = stirred(MistralForCausalLM(config).double().eval(), 0.5), list[int]()
    own = module.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.min_new_tokens = True, 9.0, 5.0, 7
    asks = [Ask(p, seeds=(3, 4), limit=None if i else 3) for i, p in enumerate(some_prompts(9))]
    results = []
    with torch.inference_mode():
        for budget in (1, 70, 4096):
            bounds = Bounds((6, 7), 8, budget)
            groups = decode_by_library(module, asks, Draw(Head(None), 0.9), bounds, told.append)
            results.append([row.tokens for group in groups for row in group])
            told, count = [], told
            assert sum(count) == 18
    assert results[0] == results[1] == results[2]
    assert len({len(tokens) for tokens in results[0]}) > 1
    assert max(map(len, results[0][:2])) == 3 < max(map(len, results[0]))
    assert module.generation_config is own
