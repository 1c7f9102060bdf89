"""Stories of merged directories: toys on disk by every rule, adapters and versions of runs, a bound on memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from everlearn.combine import merge_weights
from everlearn.errors import ConfigError, ModelError, RegistryError
from everlearn.files import sha256_file
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.merge_folders import REPORT, Plan, merge_folders
from everlearn.merge_rules import Merging
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.averaging import ModelStock, Soup, WiSEFT
from everlearn.methods.sparse_vectors import DARE, DELLA, TIES, Breadcrumbs
from everlearn.methods.task_vectors import OPCM, SLERP, MagMax, TaskArithmetic
from everlearn.models.lora import adapters, fold, wrap
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.peft_format import save_peft
from everlearn.testing.toys import toy_folder, toy_module, toy_stream, toy_tokenizer
from everlearn.types import Stream

RECIPE = Recipe(AdamW(learning_rate=2e-2), batch_size=4, length=64)
RULES: list[Merging] = [
    Soup(),
    ModelStock(),
    TaskArithmetic(),
    TIES(),
    DARE(),
    Breadcrumbs(),
    DELLA(),
    MagMax(),
    OPCM(),
    WiSEFT(),
    SLERP(),
]


def tuned(folder: Path, *seeds: int, shards: str = "5GB") -> Path:
    """The toy of seed 0 with noise on its weights, saved as a model."""
    module = toy_module(0, torch.float32)
    with torch.no_grad():
        for seed in seeds:
            torch.manual_seed(seed)
            for p in module.parameters():
                p += 0.05 * torch.randn_like(p)
    module.save_pretrained(folder, max_shard_size=shards)
    toy_tokenizer().save_pretrained(folder)
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return {n: t for path in sorted(folder.glob("*.safetensors")) for n, t in load_file(path).items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three models of it, one of them in shards."""
    root = tmp_path_factory.mktemp("models")
    toy_folder(root / "base")
    tuned(root / "a", 1)
    tuned(root / "b", 2, shards="40KB")
    tuned(root / "c", 1, 3)  # less than a right angle from a
    assert len(list((root / "b").glob("*.safetensors"))) > 1
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_two_models_by_each_rule_are_one_that_loads(rule: Merging, place: Path, tmp_path: Path) -> None:
    names = ["a"] if isinstance(rule, WiSEFT | SLERP) else ["a", "b"]
    plan = Plan(memory=2**30 if rule.whole else 2**15, seed=5)
    merge_folders(tmp_path / "out", str(place / "base"), [str(place / n) for n in names], rule, plan)
    found = tensors(tmp_path / "out")
    expected = merge_weights(rule, tensors(place / "base"), [tensors(place / n) for n in names], seed=5)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight)
    model = Learner(model=str(tmp_path / "out"), dtype="float32").open()
    assert all(torch.equal(p, found[n]) for n, p in model.parameters().items())
    assert any(not torch.equal(found[n], w) for n, w in tensors(place / "base").items())


def test_the_report_says_what_was_merged(place: Path, tmp_path: Path) -> None:
    merge_folders(tmp_path / "o", str(place / "base"), [str(place / "b")], TIES(density=0.5), Plan((2.0,), seed=7))
    about = json.loads((tmp_path / "o" / REPORT).read_text())
    assert (about["method"], about["seed"], about["weights"]) == ("TIES(density=0.5)", 7, [2.0])
    assert about["base"]["files"] == {"model.safetensors": sha256_file(place / "base" / "model.safetensors")}
    assert about["of"][0]["files"] == {p.name: sha256_file(p) for p in (place / "b").glob("*.safetensors")}
    assert about["environment"]["packages"]["torch"] == torch.__version__


def test_a_base_in_shards_gives_the_same_shards(place: Path, tmp_path: Path) -> None:
    merge_folders(tmp_path / "o", str(place / "b"), [str(place / "a")], Soup())
    cut = [p.name for p in sorted((place / "b").glob("*.safetensors"))]
    assert [p.name for p in sorted((tmp_path / "o").glob("*.safetensors"))] == cut
    Learner(model=str(tmp_path / "o"), dtype="float32").open()
    for name, weight in tensors(tmp_path / "o").items():
        torch.testing.assert_close(weight, tensors(place / "a")[name])


def test_an_adapter_is_merged_by_its_product(place: Path, tmp_path: Path) -> None:
    folders = []
    for seed in (1, 2):
        module = toy_module(0, torch.float32)
        wrap(module, ("q_proj", "down_proj"), rank=2, alpha=6.0)
        torch.manual_seed(seed)
        for layer in adapters(module).values():
            torch.nn.init.normal_(layer.B)
        save_peft(module, tmp_path / f"adapter{seed}", "toy")
        fold(module)
        module.save_pretrained(tmp_path / f"folded{seed}")
        folders.append(tmp_path / f"adapter{seed}")
    merge_folders(tmp_path / "o", str(place / "base"), [str(f) for f in folders], Soup())
    folded = [tensors(tmp_path / f"folded{seed}") for seed in (1, 2)]
    for name, weight in tensors(tmp_path / "o").items():
        torch.testing.assert_close(weight, (folded[0][name] + folded[1][name]) / 2, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", [chain(), LoRA(rank=2), LoRA(rank=2, alpha=3.0)], ids=str)
def test_versions_of_a_run_are_merged(method: Method, place: Path, tmp_path: Path) -> None:
    learner = Learner(str(place / "base"), method, RECIPE, dtype="float32")
    stream = Stream(toy_stream().experiences[:2])
    made = run(learner, stream, tmp_path / "r", Settings(suite=()))
    first, last = (e.version for e in made.events[-2:])
    names = [f"{tmp_path / 'r'}@{first[:8]}", str(tmp_path / "r")]
    merge_folders(tmp_path / "o", str(place / "base"), names, Soup())
    expected = []
    for version in (first, last):
        model = learner.restore(learner.open(), made.files.versions.get(version))
        fold(model.module)
        expected.append(model.parameters())
    for name, weight in tensors(tmp_path / "o").items():
        torch.testing.assert_close(weight, (expected[0][name] + expected[1][name]).detach() / 2, atol=1e-6, rtol=1e-5)
    with pytest.raises(RegistryError, match="no version 'zzz'"):
        merge_folders(tmp_path / "p", str(place / "base"), [f"{tmp_path / 'r'}@zzz"], Soup())
    with pytest.raises(ModelError, match=r"was learned from .*base, not from"):
        merge_folders(tmp_path / "p", str(place / "a"), names, Soup())


REFEREED: list[tuple[Merging, dict[str, object], dict[str, float]]] = [
    (Soup(), {"merge_method": "task_arithmetic"}, {"weight": 0.5}),
    (TaskArithmetic(scale=0.3), {"merge_method": "task_arithmetic"}, {"weight": 0.3}),
    (TIES(density=0.5, formula="mergekit"), {"merge_method": "ties"}, {"weight": 1.0, "density": 0.5}),
    (
        Breadcrumbs(density=0.5, outliers=0.25, scale=1.0),
        {"merge_method": "breadcrumbs"},
        {"weight": 1.0, "density": 0.5, "gamma": 0.25},
    ),
    (ModelStock(), {"merge_method": "model_stock"}, {}),
    (SLERP(mixing=0.3), {"merge_method": "slerp", "parameters": {"t": 0.3}}, {}),
]


@pytest.mark.parametrize(("rule", "method", "each"), REFEREED, ids=lambda x: type(x).__name__)
def test_mergekit_gives_the_same_weights(
    rule: Merging, method: dict[str, object], each: dict[str, float], place: Path, tmp_path: Path
) -> None:
    why = "needs mergekit, which is compared with alone: pip install 'everlearn[referees]'."
    config, merge, options = (pytest.importorskip(f"mergekit.{m}", reason=why) for m in ("config", "merge", "options"))
    models = [str(place / n) for n in (["a"] if isinstance(rule, SLERP) else ["a", "c"])]
    asked = {
        "models": [{"model": str(place / "base")}, *({"model": m, "parameters": each} for m in models)],
        "base_model": str(place / "base"),
        "dtype": "float32",
    }
    plan = config.MergeConfiguration.model_validate(asked | method)
    merge.run_merge(plan, str(tmp_path / "theirs"), options.MergeOptions(copy_tokenizer=False))
    merge_folders(tmp_path / "ours", str(place / "base"), models, rule)
    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert ours.keys() <= theirs.keys()  # it writes the tied head beside the embedding
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-6, rtol=1e-5)


def changed(place: Path, folder: Path, **tensor: Tensor | None) -> Path:
    """The model `a` with a tensor replaced or, for None, left out."""
    found = {**tensors(place / "a"), **{n.replace("__", "."): t for n, t in tensor.items()}}
    folder.mkdir()
    save_file({n: t for n, t in found.items() if t is not None}, folder / "model.safetensors")
    (folder / "config.json").write_text((place / "a" / "config.json").read_text())
    return folder


def test_models_that_do_not_fit_are_refused_by_name_and_nothing_is_written(place: Path, tmp_path: Path) -> None:
    base, out = str(place / "base"), tmp_path / "o"
    lacking = changed(place, tmp_path / "lacking", model__norm__weight=None)
    more = changed(place, tmp_path / "more", extra=torch.zeros(1))
    other = changed(place, tmp_path / "other", model__norm__weight=torch.zeros(5))
    words = changed(place, tmp_path / "words", model__embed_tokens__weight=torch.zeros(99, 32))
    numbered = changed(place, tmp_path / "numbered")
    tokenizer = json.loads((place / "a" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"a": tokenizer["model"]["vocab"]["b"], "b": tokenizer["model"]["vocab"]["a"]}
    (numbered / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, says in {
        lacking: "lacks model.norm.weight",
        more: r"has extra more \(1 in all\)",
        other: r"model.norm.weight is \(5,\), and in .* \(32,\): merge models of one size",
        words: r"words has 99 rows of tokens, and .*base 51: .*tokenizer.json is not there",
        numbered: "its tokenizer numbers pieces otherwise",
        tmp_path / "nowhere": "is no directory here",
    }.items():
        with pytest.raises(ModelError, match=says):
            merge_folders(out, base, [str(name)], Soup())
    with pytest.raises(ConfigError, match="2 weights for 1 models"):
        merge_folders(out, base, [str(place / "a")], Soup(), Plan((1.0, 2.0)))
    assert not out.exists()
    (tmp_path / "here").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        merge_folders(tmp_path / "here", base, [str(place / "a")], Soup())


def test_a_model_that_breaks_off_while_it_is_read_leaves_nothing(place: Path, tmp_path: Path) -> None:
    broken = changed(place, tmp_path / "broken")
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match="cut short"):
        merge_folders(tmp_path / "o", str(place / "base"), [str(broken)], Soup())
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["broken"]


BOUND = 8 * 2**20


def test_memory_stays_within_its_bound_whatever_a_tensor_takes(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc, where a process's peak memory can be set back and read.")
    # A tensor of 16 MiB in three models, merged in blocks that take 8 MiB in all.
    for seed, name in enumerate(("base", "a", "b")):
        (tmp_path / name).mkdir()
        torch.manual_seed(seed)
        save_file({"w": torch.randn(2**13, 2**9)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    words = [sys.executable, "-c", MEASURE, str(tmp_path), str(BOUND)]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    bounded, unbounded = map(int, result.stdout.split()[1:])  # the first loads parts of libraries for good
    assert 0 < bounded < BOUND + 2**20
    assert unbounded > 48 * 2**20
    assert sha256_file(tmp_path / "o1/model.safetensors") == sha256_file(tmp_path / "o2/model.safetensors")


MEASURE = """
import sys
from pathlib import Path
import torch
from everlearn.merge_folders import Plan, merge_folders
from everlearn.methods.sparse_vectors import TIES
torch.set_num_threads(1)
root, bound = Path(sys.argv[1]), int(sys.argv[2])

def size(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))

def peak(out, memory):
    Path("/proc/self/clear_refs").write_text("5")
    before = size("VmRSS")
    merge_folders(root / out, str(root / "base"), [str(root / "a"), str(root / "b")], TIES(), Plan(memory=memory))
    return size("VmHWM") - before

print(peak("o0", bound), peak("o1", bound), peak("o2", 2**31))
"""
