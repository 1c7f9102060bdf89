import torch
from torch import Tensor

from everlearn.models.decoding import READ, Ask, Bounds, Decoder, Row
from everlearn.models.draws import Greedy
from everlearn.models.generate import counting
from everlearn.models.reading import Reader
from everlearn.models.slots import attending
from tests.models.lively import by_definition, lively_model, some_prompts


def test_prompts_of_very_different_lengths_do_not_share_slots_unless_all_fit_at_once() -> None:
    model = lively_model()
    asks = [Ask([7] * length) for length in (300, 40, 30, 310)]
    for budget, expected in ((1000, [[3, 0], [1, 2]]), (5000, [[3, 0, 1, 2]])):
        decoder = Decoder(Reader(model), Greedy(Reader(model).head), Bounds((1,), 5, budget))
        assert list(decoder._bands(asks)) == expected


def test_many_prompts_are_read_in_passes_of_a_bounded_size_and_answered_alike() -> None:
    model, prompts, read = lively_model(), [p * 20 for p in some_prompts(30)], list[int]()
    end = model.tokenizer.eos_token_id
    expected = [by_definition(model.module, p, 4, end) for p in prompts]
    hook = model.module.model.layers[0]  # type: ignore[operator,union-attr,index]
    with torch.inference_mode(), attending(model.module):
        reader = Reader(model)
        hook.register_forward_hook(lambda _, given, __: read.append(given[0].shape[:2].numel()))
        found = Decoder(reader, Greedy(reader.head), Bounds((end,), 4, 16384)).run([Ask(p) for p in prompts], int)
    assert [row.tokens for (row,) in found] == expected
    assert max(read) <= READ
    assert len(read) > 4


def test_a_hint_is_followed_up_to_where_the_choice_differs_or_the_row_is_over() -> None:
    model = lively_model()
    asked: list[int] = []

    def choose(states: Tensor, rows: list[Row]) -> tuple[list[int], list[float]]:
        asked.append(len(rows))
        return [9] * len(rows), [-0.5] * len(rows)

    asks = [Ask([7, 8], (9, 9, 5, 9)), Ask([7], ()), Ask([8, 8], (9, 9))]
    with torch.inference_mode(), attending(model.module):
        found = Decoder(Reader(model), choose, Bounds((5,), 5, 4096)).run(asks, counting(None, "", 3))
    assert [row.tokens for (row,) in found] == [[9] * 5] * 3
    assert [row.logprobs for (row,) in found] == [[-0.5] * 5] * 3
    assert asked == [5 + 1 + 3, 3, 3, 1, 1]
