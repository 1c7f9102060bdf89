"""The study of continual fine-tuning: what it plans, and the table it makes of what is there."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.errors import ConfigError
from everlearn.files import write_json
from everlearn.grid.cells import Cell
from everlearn.matrix import Matrix, Row
from recipes.cft_study import METHODS, RATES, REFERENCES, SCALES, SWEPT, Study, written


@pytest.fixture
def study(shared: Path, tmp_path: Path) -> Study:
    return Study(
        shared / "mtl15", tmp_path, rows=4, tests=3, tasks=2, seeds=(0, 1), only=("plain", "low_rate", "olora")
    )


def test_its_methods_are_those_that_are_asked_for_each_on_the_same_frozen_layers() -> None:
    wanted = (
        "plain replay derpp ewc lwf agem olora inflora duallora clora_entries clora_routing slao ties low_rate gdumb"
    )
    assert set(METHODS) == set(wanted.split())
    methods = Study(Path(), Path()).methods
    assert all("'28.self_attn.q_proj'" in str(method) for method in methods.values())
    assert not any("27." in str(method) or "all-linear" in str(method) for method in methods.values())
    assert all("'0.mlp.down_proj'" in str(method) for method in Study(Path(), Path(), frozen=0).methods.values())


def test_test_rows_are_not_looked_at_when_rates_are_chosen(study: Study) -> None:
    swept, main = study.sweep(RATES[0]), study.main("class", 0, dict.fromkeys((*study.methods, *REFERENCES), 1e-3))
    assert swept.seeds == (SWEPT,)
    assert main.seeds == (0, 1)
    for tried, scored in zip(swept.stream, main.stream, strict=True):
        assert list(tried.train) == list(scored.train)
        assert not {e.key for e in tried.test} & {e.key for e in scored.test}
        assert not {e.key for e in tried.train} & {e.key for e in tried.test}


def test_both_scenarios_offer_all_labels_and_one_of_them_says_what_is_asked(study: Study) -> None:
    told, bare = study.stream("domain"), study.stream("class")
    assert (told.scenario, bare.scenario) == ("domain", "class")
    everything = {label for experience in bare for label in experience.labels}
    assert all(set(experience.candidates) == everything for experience in (*told, *bare))
    assert all("Option:" in row.prompt[-1].content for experience in told for row in experience.test)
    assert not any("Option:" in row.prompt[-1].content for experience in bare for row in experience.test)


def test_each_method_has_rates_of_its_own(study: Study) -> None:
    grid = study.sweep(RATES[1])
    rates = {name: recipe.optimiser.learning_rate for name, recipe in grid.recipes.items()}
    assert rates == {name: RATES[1] * SCALES.get(name, 1.0) for name in (*study.methods, *REFERENCES)}


def test_the_best_rate_is_taken_and_the_lowest_among_equals(study: Study) -> None:
    with pytest.raises(ConfigError, match="not finished"):
        study.rates()
    for place, rate in enumerate(RATES):
        for cell in study.sweep(rate).cells(study.out / f"rate-{rate:g}"):
            fake(cell, {"olora": (0.1, 0.3, 0.2)}.get(cell.name, (0.5, 0.5, 0.4))[place])
    assert study.rates() == {
        "plain": RATES[0],
        "low_rate": RATES[0],
        "olora": RATES[1],
        "joint": RATES[0],
        "single": RATES[0],
    }


def test_the_table_says_how_much_of_it_is_done(study: Study) -> None:
    assert study.total == 5 * 3 + 2 * (5 * 2 + 3)
    assert f"(0 of {study.total} runs done)" in written(study, {"x, seed 0": "it broke"})
    assert "- failed: x, seed 0: it broke" in written(study, {"x, seed 0": "it broke"})
    for rate in RATES:
        for cell in study.sweep(rate).cells(study.out / f"rate-{rate:g}"):
            fake(cell, 0.5)
    page = written(study, {})
    assert f"(15 of {study.total} runs done)" in page
    assert "| plain | **50.0** | 50.0 | 50.0 |" in page
    assert "-incremental, order" not in page, "nothing of a part is shown before one of its runs is done"
    cells = study.main("domain", 0, study.rates()).cells(study.out / "domain-order-1")
    fake(next(cell for cell in cells if cell.name == "joint"), 0.5)
    page = written(study, {})
    assert f"(16 of {study.total} runs done)" in page
    assert page.count("-incremental, order") == page.count("## domain-incremental, order 1") == 1


def test_unknown_methods_and_the_sweeps_seed_are_refused(study: Study) -> None:
    with pytest.raises(ConfigError, match="no methods"):
        replace(study, only=("plian",))
    with pytest.raises(ConfigError, match="is the sweep's"):
        replace(study, seeds=(0, SWEPT))


def fake(cell: Cell, score: float) -> None:
    """Leave in a cell's folder what a finished one leaves."""
    write_json(cell.folder / "cell.json", cell.asked)
    names = cell.stream.names
    row = Row((score,) * len(names))
    if cell.kind == "run":
        write_json(cell.folder / "run.json", {})
        write_json(cell.folder / "matrix.json", Matrix(names, (row,) * (len(names) + 1)).to_dict())
    else:
        write_json(cell.folder / "row.json", row.to_dict())
