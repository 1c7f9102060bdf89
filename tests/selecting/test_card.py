"""What a selection has kept, in words."""

import json

import torch

from everlearn.examples import Example
from everlearn.selecting.card import Card, Shown, Spread, spread


def test_quantiles_of_what_was_kept_and_what_was_not() -> None:
    found = spread(torch.arange(21.0), range(10, 21))
    assert found.kept == (10.0, 10.0, 15.0, 20.0, 20.0)
    assert found.left == (0.0, 0.0, 4.0, 9.0, 9.0)
    assert spread(torch.ones(2), [0, 1]).left == ()


def test_the_card_as_a_page_and_as_data() -> None:
    one = Shown.of(1.5, True, Example(text="two\n\nlines " + "x" * 200, source="a.txt:7"))
    assert one.text.startswith("two lines xxx")
    assert len(one.text) == 80
    card = Card(
        selection="Selection()",
        model="m",
        documents=10,
        size=1000,
        left={"words": 1, "near duplicates": 3},
        passed=(6, 600),
        kept=(2, 150),
        spreads={"Novelty()": Spread((1, 2, 3, 4, 5), ())},
        shown={"Novelty()": (one,)},
    )
    page = card.markdown()
    assert "| kept | 2 | 150 |" in page
    assert page.index("near duplicates`: 3") < page.index("words`: 1")
    assert "| kept | 1.000 | 2.000 | 3.000 | 4.000 | 5.000 |" in page
    assert "| not kept |" not in page
    assert "- 1.500, kept, a.txt:7: two lines" in page
    assert json.loads(card.json())["spreads"]["Novelty()"]["kept"] == [1, 2, 3, 4, 5]
