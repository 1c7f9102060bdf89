"""Stories of adapters moved onto a newer toy: from a run and from PEFT's format, by each way, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everlearn.errors import ConfigError, ModelError
from everlearn.files import read_json, write_json
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.methods.adapters import LoRA
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.peft_format import load_peft, read_peft
from everlearn.rebase_folders import ROWS, Rebasing, rebase
from everlearn.run_folder import RunFolder
from everlearn.testing.toys import toy_folder, toy_module, toy_stream, toy_tokenizer
from everlearn.types import Stream
from everlearn.weights import equal

RECIPE = Recipe(AdamW(learning_rate=2e-2), batch_size=4, length=64, epochs=8)
TASK = Stream(toy_stream().experiences[1:2], name="task")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An old base, a newer one that is the old one with noise, and a run that learned the task on the old one."""
    root = tmp_path_factory.mktemp("bases")
    toy_folder(root / "old")
    module = toy_module(0, torch.float32)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    module.save_pretrained(root / "new")
    toy_tokenizer().save_pretrained(root / "new")
    learner = Learner(str(root / "old"), LoRA(rank=2), RECIPE, device="cpu", dtype="float32")
    run(learner, TASK, root / "run", Settings(suite=()))
    return root


def how(by: str, share: float = 1.0) -> Rebasing:
    return Rebasing(by, share, recipe=replace(RECIPE, epochs=1), dtype="float32", device="cpu")  # type: ignore[arg-type]


def test_an_adapter_is_moved_from_a_run_and_scored_before_and_after(place: Path, tmp_path: Path) -> None:
    made = rebase(str(place / "run"), str(place / "new"), TASK, tmp_path / "out", how("both", 0.5))
    assert [s.model for s in made.scores] == list(ROWS)
    mean = {s.model: s.mean for s in made.scores}
    had = mean["old base + adapter"] - mean["old base"]
    assert had > 0.1
    assert made.kept == pytest.approx((mean["recycled"] - mean["new base"]) / had)
    assert made.kept > 0.5
    assert all(s.low <= s.mean <= s.high and s.n == len(TASK.experiences[0].test) for s in made.scores)
    evidence = read_json(tmp_path / "out" / "rebase.json")
    assert [row["mean"] for row in evidence["scores"]] == [s.mean for s in made.scores]
    assert "OldAdapterKL" in evidence["method"]
    files = RunFolder(tmp_path / "out" / "run")
    version = files.versions.get(files.ledger.head() or "")
    model = LanguageModel.open(str(place / "new"), "float32", "cpu")
    load_peft(model.module, tmp_path / "out" / "adapter")
    assert equal({n: p.detach() for n, p in model.trainable().items()}, version.weights)
    again = rebase(str(place / "run"), str(place / "new"), TASK, tmp_path / "out", how("both", 0.5))
    assert again == made
    with pytest.raises(ConfigError, match="another how"):
        rebase(str(place / "run"), str(place / "new"), TASK, tmp_path / "out", how("start", 0.5))


@pytest.mark.parametrize(("by", "begins"), [("start", True), ("distil", False)])
def test_each_way_begins_where_it_says(by: str, begins: bool, place: Path, tmp_path: Path) -> None:
    files = RunFolder(place / "run")
    still = replace(how(by), recipe=replace(RECIPE, optimiser=AdamW(learning_rate=0.0), epochs=1))
    name = f"{place / 'run'}@{files.ledger.head()}"
    made = rebase(name, str(place / "new"), TASK, tmp_path / "out", still)
    old, new = (read_peft(tmp_path / "out" / part)[0] for part in ("old", "adapter"))
    assert all(torch.equal(old[layer][1], new[layer][1]) for layer in old) == begins
    mean = {s.model: s.mean for s in made.scores}
    assert mean["recycled"] == mean["new base + adapter" if begins else "new base"]
    # and from PEFT's format, as it was written
    made = rebase(str(tmp_path / "out" / "old"), str(place / "new"), TASK, tmp_path / "again", still)
    assert {s.model: s.mean for s in made.scores} == mean


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    out, adapter = tmp_path / "out", str(place / "run")
    with pytest.raises(ConfigError, match="is the same model"):
        rebase(adapter, str(place / "old"), TASK, out)
    with pytest.raises(ModelError, match="neither an adapter"):
        rebase(str(place / "old"), str(place / "new"), TASK, out)
    other = toy_tokenizer()
    other.add_tokens(["<new>"])
    toy_module(2, torch.float32).save_pretrained(tmp_path / "words")
    other.save_pretrained(tmp_path / "words")
    with pytest.raises(ModelError, match="another vocabulary"):
        rebase(adapter, str(tmp_path / "words"), TASK, out)
    config = toy_module().config
    config.intermediate_size = 48
    wide = type(toy_module())(config)
    wide.save_pretrained(tmp_path / "wide")
    toy_tokenizer().save_pretrained(tmp_path / "wide")
    with pytest.raises(ModelError, match="load the base model it was made for"):
        rebase(adapter, str(tmp_path / "wide"), TASK, out)
    silent = out / "old"  # what was refused is tried again from the start
    write_json(
        silent / "adapter_config.json", read_json(silent / "adapter_config.json") | {"base_model_name_or_path": ""}
    )
    with pytest.raises(ModelError, match="does not say what it was learned on"):
        rebase(str(silent), str(place / "new"), TASK, tmp_path / "silent")


def test_a_way_that_there_is_not_is_refused() -> None:
    for wrong in (lambda: how("luck"), lambda: how("both", 0.0), lambda: how("both", 1.5)):
        with pytest.raises(ConfigError, match="start, distil or both"):
            wrong()
