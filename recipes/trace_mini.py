"""TRACE in miniature: FOMC, ScienceQA, NumGLUE-cm with the embedded model, and what protects it.

Three tasks of TRACE-500 (arXiv:2310.06762) in this order, one epoch each, LoRA on all linear layers. Compared: plain
sequential fine-tuning, 10 % replay, EWC, L2-SP, joint training as the upper bound, and the untouched base model.

    python -m recipes.trace_mini --data path/to/trace-500 --out runs/trace_mini

Differs from TRACE: ScienceQA's answer is its letter without the reasons behind it, since the letter is what is scored;
the model is fifty times smaller; one epoch; every score is exact match of the whole answer. Nothing was tuned: the
rank is 8, learning rate and strengths are the library's defaults. It can be stopped and started again; several
processes share the work when each is given other seeds, and a last call writes the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from everlearn.config import show
from everlearn.data.sources import read
from everlearn.data.streams import domain_incremental, experience
from everlearn.examples import Example, Message
from everlearn.files import read_json, write_atomic
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.matrix import Matrix
from everlearn.measures import Measure, summary
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC, L2SP
from everlearn.methods.replay import Replay
from everlearn.metrics.suites import general_suite
from everlearn.models.optim import Recipe
from everlearn.progress import Bars
from everlearn.references import joint
from everlearn.types import Experience, Stream
from recipes.intervals import interval

TASKS = ("FOMC", "ScienceQA", "NumGLUE-cm")
METHODS: Mapping[str, Method] = {
    "plain": chain(LoRA(rank=8)),
    "replay": chain(LoRA(rank=8), Replay(fraction=0.1)),
    "ewc": chain(LoRA(rank=8), EWC()),
    "l2sp": chain(LoRA(rank=8), L2SP()),
}
RECIPE = Recipe(batch_size=8, tokens=1024)
SHOWN = (
    "accuracy",
    "backward_transfer_lopez_paz",
    "forgetting_chaudhry",
    "learning_accuracy",
    "general_ability_delta_trace",
)


def stream(data: Path, rows: int) -> Stream:
    """The three tasks, with the first `rows` training rows of each."""
    return domain_incremental([_task(data / name, rows) for name in TASKS], "trace_mini")


def runs(data: Path, out: Path, rows: int, seeds: Sequence[int], per_ability: int) -> None:
    """Every method and the joint reference, for each seed; what is done is not done again."""
    learned, suite = stream(data, rows), general_suite(per_ability=per_ability)
    with Bars() as bars:
        for seed in seeds:
            for name, method in METHODS.items():
                settings = Settings(suite=suite, scores=out / "scores")
                run(Learner("embedded", method, RECIPE, seed), learned, out / f"{name}-{seed}", settings, bars)
            joint(Learner("embedded", METHODS["plain"], RECIPE, seed), learned, out / f"joint-{seed}", bars)


def main(
    data: Annotated[Path, typer.Option(help="The folder trace-500.")],
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/trace_mini"),
    rows: Annotated[int, typer.Option(help="Training rows of each task.")] = 200,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    per_ability: Annotated[int, typer.Option(help="General-ability items of each ability.")] = 20,
    table: Annotated[bool, typer.Option(help="Only write the table of what is there.")] = False,
) -> None:
    """Run the comparison, and write its table beside this file."""
    chosen = [int(s) for s in seeds.split(",")]
    if not table:
        runs(data, out, rows, chosen, per_ability)
    write_atomic(Path(__file__).with_suffix(".md"), written(out, rows, chosen))


def written(out: Path, rows: int, seeds: Sequence[int]) -> str:
    """The table as Markdown: means over seeds with 95 % t-intervals, in percent."""
    lines = [f"# TRACE in miniature: {', '.join(TASKS)}", ""]
    lines += [f"{rows} training rows a task, one epoch, SmolLM2-135M-Instruct, `{RECIPE}`, seeds {list(seeds)}.", ""]
    matrices = {name: [Run(out / f"{name}-{seed}").matrix for seed in seeds] for name in METHODS}
    tests = [matrices["plain"][0].count(i) for i in range(len(TASKS))]
    lines += [f"Test items: {dict(zip(TASKS, tests, strict=True))}. Percent; mean and 95 % t-interval over seeds.", ""]
    lines += ["| | " + " | ".join((*TASKS, *SHOWN, "ACC - plain", "minutes")) + " |", "|---" * (6 + len(SHOWN)) + "|"]
    base = matrices["plain"][0].rows[0].scores
    lines.append(_line("untouched base", [*map(_percent, base), _percent(fmean(s or 0.0 for s in base))]))
    for name, found in matrices.items():
        lines.append(_line(f"{name}: `{show(METHODS[name])}`", _cells(found, matrices["plain"], out, name, seeds)))
    upper = [_joint_scores(out / f"joint-{seed}") for seed in seeds]
    last = [interval([row[i] for row in upper]) for i in range(len(TASKS))]
    lines.append(_line("joint (upper bound)", [*last, interval([fmean(row) for row in upper])]))
    return "\n".join([*lines, "", *_matrices(matrices), ""])


def _cells(found: Sequence[Matrix], plain: Sequence[Matrix], out: Path, name: str, seeds: Sequence[int]) -> list[str]:
    last = [interval([m.rows[-1].scores[i] or 0.0 for m in found]) for i in range(len(TASKS))]
    measures: list[dict[str, Measure]] = [{x.name: x for x in summary(m)} for m in found]
    shown = [interval([m[key].value or 0.0 for m in measures]) for key in SHOWN]
    gains = [fmean(_last(a)) - fmean(_last(b)) for a, b in zip(found, plain, strict=True)]
    minutes = [
        sum(r["seconds"] for r in Run(out / f"{name}-{s}").files.metrics() if "seconds" in r) / 60 for s in seeds
    ]
    return [*last, *shown, interval(gains), f"{fmean(minutes):.1f}"]


def _matrices(matrices: Mapping[str, Sequence[Matrix]]) -> list[str]:
    lines = ["R[t, i] in percent, mean over seeds:", ""]
    for name, found in matrices.items():
        lines += [f"| {name} | " + " | ".join(TASKS) + " |", "|---" * (1 + len(TASKS)) + "|"]
        for t, label in enumerate(("base", *(f"after {task}" for task in TASKS))):
            means = [fmean(m.rows[t].scores[i] or 0.0 for m in found) for i in range(len(TASKS))]
            lines.append(_line(label, [_percent(m) for m in means]))
        lines.append("")
    return lines


def _task(folder: Path, rows: int) -> Experience:
    parts = {split: read(folder / f"{split}.json").examples for split in ("train", "eval", "test")}
    letters = {split: [_answer_alone(e) for e in found] for split, found in parts.items()}
    return experience(folder.name, letters["train"][:rows], letters["test"], letters["eval"], "ExactMatch")


def _answer_alone(example: Example) -> Example:
    """The first line of the answer: ScienceQA's letter without its reasons; the other tasks' answers have one line."""
    return replace(example, messages=(*example.prompt, Message("assistant", example.response.strip().split("\n")[0])))


def _joint_scores(folder: Path) -> list[float]:
    outcomes = {o["exam"]: o["outcomes"] for o in map(read_json, (folder / "scores").glob("*.json"))}
    return [fmean(score for _, score, _ in outcomes[task]) for task in TASKS]


def _last(matrix: Matrix) -> list[float]:
    return [score or 0.0 for score in matrix.rows[-1].scores]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    typer.run(main)
