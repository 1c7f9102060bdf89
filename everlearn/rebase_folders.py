"""An adapter moved onto a newer base model: from disk to disk, with what it was worth before and after.

The folder that is written:

old/           the adapter as it was, in PEFT's format
run/           a run whose base is the new one and whose one experience is the task; its last version is the adapter
adapter/       that version in PEFT's format
rebase.json    what was asked, and five scores with n and interval: evidence

It can be stopped and started again with the same call.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from everlearn.config import dump, restore, show
from everlearn.data.sequences import select
from everlearn.errors import ConfigError, ModelError, RegistryError
from everlearn.evaluate import exams, rounds
from everlearn.files import read_json, sha256_file, write_json
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.recycling import InheritAdapter, OldAdapterKL, require_vocabulary
from everlearn.models.language_model import LanguageModel
from everlearn.models.load import identity
from everlearn.models.lora import chosen
from everlearn.models.optim import Recipe
from everlearn.models.parallel import launched
from everlearn.models.peft_format import CONFIG, WEIGHTS, load_peft, read_peft, save_peft
from everlearn.randomness import permutation
from everlearn.run_folder import RunFolder
from everlearn.statistics import mean_interval
from everlearn.types import Outcome, Progress, Silent, Stream

By = Literal["start", "distil", "both"]
REPORT = "rebase.json"
ROWS = ("old base", "old base + adapter", "new base", "new base + adapter", "recycled")
"""What is scored, in order."""


@dataclass(frozen=True)
class Rebasing:
    """How an adapter is moved.

    Args:
        by: "start" begins with the old adapter, "distil" learns from the old base with it, "both" does both.
        share: of the task's training rows that are learned from, drawn by the seed.
        strength: nats charged for a nat of divergence from the old model.
        recipe: how the rows are trained on.
        seed: of all randomness.
        dtype: of the frozen weights; None takes what suits the device.
        device: None takes the best there is.
    """

    by: By = "both"
    share: float = 1.0
    strength: float = 1.0
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    dtype: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse a way that there is not, and a share that is none."""
        if self.by not in ("start", "distil", "both") or not 0 < self.share <= 1:
            raise ConfigError(f"by={self.by!r} is start, distil or both, and share={self.share} in (0, 1].")


@dataclass(frozen=True)
class Score:
    """What a model is worth on the task.

    Args:
        model: one of ROWS.
        experience: whose test items were asked.
        mean: of their scores.
        low: lower end of its 95 % interval over items.
        high: upper end.
        n: items.
    """

    model: str
    experience: str
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Rebased:
    """What came of it.

    Args:
        folder: where all of it lies.
        scores: of ROWS, experience by experience.
    """

    folder: Path
    scores: tuple[Score, ...]

    @property
    def kept(self) -> float | None:
        """Gain over the new base, as a share of what the adapter had gained over the old; None if that was none."""
        mean = {row: fmean(s.mean for s in self.scores if s.model == row) for row in ROWS}
        had = mean["old base + adapter"] - mean["old base"]
        return (mean["recycled"] - mean["new base"]) / had if had > 0 else None


def rebase(
    adapter: str, onto: str, stream: Stream, out: Path, how: Rebasing | None = None, progress: Progress | None = None
) -> Rebased:
    """Move an adapter onto a newer base model, and score it before and after.

    Args:
        adapter: a folder in PEFT's format, or RUN or RUN@VERSION. What it was learned on is read from there.
        onto: the newer base: a hub name, a directory, or "embedded".
        stream: the task: rows to learn from, and test items.
        out: the folder that is written; a call that was stopped there goes on.
        how: ways and numbers.
        progress: told how far it is.

    Raises:
        ConfigError: if `out` holds another rebasing, or both bases are the same.
        ModelError: if architectures or vocabularies differ, or it is no adapter of one LoRA.
        RegistryError: if there is no such version.
    """
    how, watch = how or Rebasing(), progress or Silent()
    old = out / "old"
    if not (out / REPORT).is_file():  # else it was found and agreed to by an earlier call
        shutil.rmtree(old, ignore_errors=True)
        _copy_adapter(adapter, old, how)
    base = str(read_json(old / CONFIG).get("base_model_name_or_path") or "")
    known = _require_newer(adapter, base, onto)
    new = _opened(onto, how)
    require_vocabulary(_opened(base, how), new)
    learner = Learner(onto, _method(new, old, base, how), how.recipe, how.seed, how.dtype, how.device)
    asked = known | {"adapter": adapter, "adapter_sha256": sha256_file(old / WEIGHTS), "onto": onto}
    _require_same(out, asked | {"stream": stream.name, "how": dump(replace(how, device=None))})
    exam = _Exam(stream, out / "run" / "scores", watch)
    scores = [*exam.before(base, old, ROWS[:2], how), *exam.before(onto, old, ROWS[2:4], how)]
    made = run(learner, _shared(stream, how), out / "run", Settings(suite=()), watch)
    head = made.files.ledger.head() or ""
    model = learner.restore(learner.open(), made.files.versions.get(head))
    save_peft(model.module, out / "adapter", onto)
    found = Rebased(out, (*scores, *exam.of(model, head, ROWS[4])))
    rows = {"scores": [asdict(score) for score in found.scores], "kept": found.kept}
    write_json(out / REPORT, read_json(out / REPORT) | {"method": show(learner.method)} | rows)
    return found


def _copy_adapter(name: str, copy: Path, how: Rebasing) -> None:
    """Write the adapter in PEFT's format at a place of its own."""
    folder, _, version = name.rpartition("@")
    place = Path(name)
    if (place / CONFIG).is_file():
        read_peft(place)
        copy.mkdir(parents=True)
        for file in (WEIGHTS, CONFIG):
            shutil.copyfile(place / file, copy / file)
    elif (place / "run.json").is_file():
        _copy_version(name, RunFolder(place), "", copy, how)
    elif version and (Path(folder) / "run.json").is_file():
        _copy_version(name, RunFolder(Path(folder)), version, copy, how)
    else:
        raise ModelError(f"{name} is neither an adapter in PEFT's format nor a run; name a folder, or RUN@VERSION.")


def _copy_version(name: str, files: RunFolder, version: str, copy: Path, how: Rebasing) -> None:
    version = version or files.ledger.head() or ""
    if not version:
        raise RegistryError(f"{name}: no version of this run was kept; name one that was refused, or go on with it.")
    about, state = files.versions.manifest(version)["about"], files.versions.get(version)
    learner: Learner = replace(restore(files.asked()["learner"]), dtype=how.dtype, device=how.device)
    alike = [m for m in chain(learner.method).methods if isinstance(m, LoRA)]
    if len(alike) != 1 or any(leaf not in ("A", "B") for leaf in {w.rpartition(".")[2] for w in state.weights}):
        raise ModelError(f"{name} was learned with {about['method']}, whose adapters are not those of one LoRA.")
    if identity(learner.model) != about["identity"]:
        raise ModelError(f"{name} was learned from another {learner.model} than the one here; put that in its place.")
    model = learner.restore(learner.open(), state)
    save_peft(model.module, copy, learner.model)


def _require_newer(adapter: str, base: str, onto: str) -> dict[str, Any]:
    if not base:
        raise ModelError(f"{adapter} does not say what it was learned on; write base_model_name_or_path in {CONFIG}.")
    one, other = identity(base), identity(onto)
    if one == other:
        raise ConfigError(f"{adapter} was learned on {base}, and {onto} is the same model; it fits there as it is.")
    return {"base": base, "base_identity": one, "onto_identity": other}


def _require_same(out: Path, asked: Mapping[str, Any]) -> None:
    """Write what was asked, or make sure that it is what was asked before.

    Raises:
        ConfigError: if it is not.
    """
    if not (out / REPORT).is_file():
        write_json(out / REPORT, asked)
        return
    there, asked = read_json(out / REPORT), json.loads(json.dumps(asked))
    if unlike := [name for name, value in asked.items() if there.get(name) != value]:
        raise ConfigError(f"{out} holds another rebasing, with another {' and '.join(unlike)}; choose another folder.")


def _method(new: LanguageModel, old: Path, base: str, how: Rebasing) -> Method:
    """LoRA as the old adapter was, begun with it, taught by it, or both."""
    pairs, scale, config = read_peft(old)
    load_peft(new.module, old)  # it says what does not fit
    leaves = tuple(sorted({name.rpartition(".")[2] for name in pairs}))
    targets = leaves if set(chosen(new.module, leaves)) == set(pairs) else tuple(sorted(pairs))
    lora = LoRA(int(config["r"]), scale * int(config["r"]), targets, float(config.get("lora_dropout") or 0.0))
    ways: Sequence[Method] = (InheritAdapter(str(old.resolve())), OldAdapterKL(str(old.resolve()), base, how.strength))
    return chain(lora, *ways[how.by == "distil" : 1 + (how.by != "start")])


def _shared(stream: Stream, how: Rebasing) -> Stream:
    """The stream with a share of its training rows, one at least."""
    parts = []
    for experience in stream:
        rows = permutation(len(experience.train), how.seed, "rebase", experience.name)
        kept = sorted(rows[: max(1, round(how.share * len(rows)))])
        parts.append(replace(experience, train=select(experience.train, kept)) if how.share < 1 else experience)
    return replace(stream, experiences=tuple(parts))


def _opened(name: str, how: Rebasing) -> LanguageModel:
    return LanguageModel.open(name, how.dtype, how.device)


@dataclass(frozen=True)
class _Exam:
    """What models are asked, and where what they answer is kept."""

    stream: Stream
    scores: Path
    progress: Progress

    def of(self, model: LanguageModel, version: str, row: str) -> list[Score]:
        """A model's scores on the test items; what was asked before is read."""
        found, scores = dict[str, tuple[Outcome, ...]](), list[Score]()
        for part in rounds(model, version, exams(self.stream), self.scores, self.progress, launched()):
            found |= part
        for experience in self.stream:
            own = [outcome.score for outcome in found[experience.name]]
            scores.append(Score(row, experience.name, fmean(own), *mean_interval(own), len(own)))
        return scores

    def before(self, base: str, adapter: Path, rows: Sequence[str], how: Rebasing) -> list[Score]:
        """The scores of a base model alone, and with the adapter as it was."""
        model = _opened(base, how)
        alone = self.of(model, model.identity, rows[0])
        load_peft(model.module, adapter)
        return [*alone, *self.of(model, f"{model.identity} with {sha256_file(adapter / WEIGHTS)}", rows[1])]
