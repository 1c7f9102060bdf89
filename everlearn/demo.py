"""The main job on a small model: one stream, learned plainly and protected, and what each kept."""

import time
from pathlib import Path

from rich.console import Console

from everlearn.config import show
from everlearn.demo_stream import demo_stream
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.replay import Replay
from everlearn.metrics.suites import general_suite
from everlearn.models.optim import AdamW, Recipe
from everlearn.progress import Bars
from everlearn.report import write_report
from everlearn.terminal import matrix_table, measures_table
from everlearn.verdict import verdict

METHODS: dict[str, Method] = {
    "plain": chain(LoRA(rank=16)),
    "protected": chain(LoRA(rank=16), Replay(fraction=0.2), EWC(strength=1e4, samples=32)),
}
RECIPE = Recipe(AdamW(learning_rate=1e-3), batch_size=8, length=256)
PER_ABILITY = 12
"""Items of each general ability that are asked; the whole suite takes longer than a demonstration may."""


def run_demo(out: Path, seed: int = 0, model: str = "embedded", rows: int = 200) -> Path:
    """Learn the demo stream twice, print both matrices and the verdict, and write the report.

    Args:
        out: folder for both runs and the report; what was done there is not done again.
        seed: of all randomness.
        model: who learns.
        rows: training rows of each experience.

    Returns:
        The report's path.
    """
    console, started = Console(), time.monotonic()
    stream = demo_stream(rows, seed)
    _announce(console, stream.names)
    suite = general_suite(per_ability=PER_ABILITY)
    settings = Settings(suite=suite, scores=out / "scores")
    runs: dict[str, Run] = {}
    with Bars() as bars:
        for number, (name, method) in enumerate(METHODS.items(), start=1):
            console.print(f"\n[bold]{number} of {len(METHODS)}: {name}[/bold]  {show(method)}", highlight=False)
            runs[name] = run(Learner(model, method, RECIPE, seed), stream, out / name, settings, bars)
    report = write_report(runs, out / "report.html")
    matrices = {name: made.matrix for name, made in runs.items()}
    for name, matrix in matrices.items():
        console.print(matrix_table(matrix, name))
    console.print(measures_table(matrices))
    console.print(f"\n[bold]{verdict(matrices['plain'], matrices['protected'])}[/bold]", highlight=False)
    minutes = (time.monotonic() - started) / 60
    console.print(f"\n{minutes:.1f} minutes. The whole story with pictures: {report}", highlight=False, soft_wrap=True)
    return report


def _announce(console: Console, names: tuple[str, ...]) -> None:
    console.print(
        f"A small language model (SmolLM2-135M-Instruct) now learns {len(names)} things, one after the other: "
        f"{', '.join(names)}. It does so twice, first by plain fine-tuning, then protected against "
        "forgetting. After each it is asked about everything, so that we see what was learned and what was "
        "lost. This takes about 4 minutes on two cores that multiply bfloat16, 13 or more on others, less on a GPU, "
        "and a download of 93 MB the first time.\n"
        "Ctrl-C stops it; the same command goes on.",
        highlight=False,
    )
