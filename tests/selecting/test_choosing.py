"""Documents filtered, scored and chosen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everlearn.data.sources import read
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.selecting.choosing import Selection, ranks
from everlearn.selecting.criteria import DocumentReader, Novelty, Told
from everlearn.selecting.quality import Quality
from everlearn.testing.toys import question, toy_model

WHOLE = Selection(quality=None, near=None)
READER = DocumentReader(toy_model())


@dataclass(frozen=True)
class Given:
    """A document's score is the number that it ends with, times `sign`."""

    sign: float = 1.0

    def scores(self, documents: Sequence[Example], reader: DocumentReader, told: Told) -> Tensor:
        """See `Criterion`."""
        return torch.tensor([self.sign * float(e.text.split()[-1]) for e in documents], dtype=torch.float64)


def numbered(*numbers: float) -> list[Example]:
    return [Example(text=f"number {number}", source=f"here:{i}") for i, number in enumerate(numbers)]


def test_the_best_are_kept_until_the_share_of_bytes_is_reached_in_their_old_order() -> None:
    chosen = replace(WHOLE, by=(Given(),), share=0.5).choose(numbered(3, 9, 1, 7), READER)
    assert chosen.rows == (1, 3)
    assert [e.text for e in chosen.documents] == ["number 9", "number 7"]
    assert chosen.card.kept == (2, 16)
    # A document that crosses the bound is the last one that is kept.
    assert replace(WHOLE, by=(Given(),), share=0.3).choose(numbered(3, 9, 1, 7), READER).rows == (1, 3)
    assert replace(WHOLE, by=(Given(),), share=0.25).choose(numbered(3, 9, 1, 7), READER).rows == (1,)


def test_several_criteria_are_the_mean_of_their_ranks() -> None:
    assert ranks(torch.tensor([30.0, 10.0, 20.0])).tolist() == pytest.approx([1, 1 / 3, 2 / 3])
    assert ranks(torch.tensor([5.0, 5.0, 1.0])).tolist() == pytest.approx([5 / 6, 5 / 6, 1 / 3])
    both = replace(WHOLE, by=(Given(), Given(-1.0)), share=0.5)
    assert both.choose(numbered(1, 2, 3, 4), READER).rows == (0, 1)  # all tie, and the first ones are kept


def test_soft_choice_is_drawn_by_rank_and_gumbel_by_the_exponential_of_scores() -> None:
    rows = numbered(0, 1)
    kind = replace(WHOLE, by=(Given(),), share=0.5)
    soft, gumbel = (
        [replace(kind, how=how, seed=seed).choose(rows, READER).rows for seed in range(400)]
        for how in ("soft", "gumbel")
    )
    # Ranks are 1/2 and 1, so that the second is drawn first in 2 of 3; exponentials are 1 and e.
    assert soft.count((1,)) / 400 == pytest.approx(2 / 3, abs=0.07)
    assert gumbel.count((1,)) / 400 == pytest.approx(math.e / (1 + math.e), abs=0.07)
    assert soft[:9] == [replace(kind, how="soft", seed=seed).choose(rows, READER).rows for seed in range(9)]


def test_filters_come_first_and_say_why() -> None:
    texts = [
        "one two three four five six seven eight",
        "one two three four five six seven eight!",
        "short",
        "nothing here is near to any other text of these",
    ]
    kind = Selection(quality=replace(Quality(), words=(3, 100), stop_words=None))
    chosen = kind.choose([Example(text=text) for text in texts])
    assert chosen.rows == (0, 3)
    assert chosen.card.left == {"near duplicates": 1, "words": 1}
    assert chosen.card.passed == chosen.card.kept == (2, len(texts[0]) + len(texts[3]))


def test_files_are_chosen_from_without_being_read_into_memory(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"this is text number {i}" for i in range(40)))
    rows = read(tmp_path, chunk=32, in_memory=1).examples
    kind = replace(WHOLE, by=(Novelty(),), share=0.25, near=0.99)
    chosen = kind.choose(rows, READER)
    assert type(chosen.documents).__name__ == "View"
    assert [e.key for e in chosen.documents] == [rows[i].key for i in chosen.rows]
    assert chosen.rows == kind.choose(tuple(rows), READER).rows


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"share": 0.0}, "share=0.0"),
        ({"near": 1.5}, "near=1.5"),
        ({"share": 0.5}, "without a criterion"),
        ({"how": "best"}, "how='best'"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(WHOLE, **change)


def test_what_cannot_be_chosen_among_is_said() -> None:
    with pytest.raises(ConfigError, match="Novelty\\(\\) needs a model"):
        replace(WHOLE, by=(Novelty(),)).choose(numbered(1))
    with pytest.raises(DataError, match="toy is a conversation"):
        WHOLE.choose([question("a?", "b")])
    with pytest.raises(DataError, match="no documents"):
        WHOLE.choose([])
    with pytest.raises(DataError, match=r"none of 1 documents passes the filters: {'words': 1}"):
        Selection().choose(numbered(1))
