"""A short context made longer in stages, each of which ends only when two gates say so (Llama 3, arXiv:2407.21783).

The embedded model is cut back to 256 tokens (`everlearn.models.rope.shorten`). A first stage mends it at that length;
two more double it, to 512 and 1024, with YaRN or what else is chosen. A stage trains on needles in haystacks, half of
its tokens, and on Python's own library as text. It is kept if the general suite has recovered within noise, and every
needle up to the new length is found. Beside it, `hasty` is given a fiftieth of the tokens for its second stage, and has
to be refused.

    python -m recipes.long_context --out runs/long_context

It can be stopped at any moment, and the same call goes on. On a larger machine `--model`, `--short`, `--doublings` and
`--tokens` grow it. `--quick` only shows that it works.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from sysconfig import get_path
from typing import Annotated

import typer

from everlearn.examples import Example
from everlearn.files import read_jsonl
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.context import AdjustedBase, PositionInterpolation, YaRN
from everlearn.metrics.needles import Found, Grid, Needles, grid
from everlearn.metrics.suites import general_suite
from everlearn.models.load import Tokenizer, load, load_tokenizer
from everlearn.models.optim import Recipe
from everlearn.models.rope import shorten
from everlearn.objectives.next_token import NextToken
from everlearn.progress import Bars
from everlearn.registry.gates import AllOf, Gate, Reached, Recovered
from everlearn.report import write_report
from everlearn.types import Experience, Progress, Stream
from recipes.pages import publish

LETTERS = 3
"""Of a text for each token, about: pieces are cut by letters."""
LONGER: dict[str, Method] = {
    "yarn": YaRN(),
    "interpolation": PositionInterpolation(),
    "base": AdjustedBase(),
    "nothing": chain(),
}
"""What reaches further; the last is the control, whose frequencies stay."""
GATE = AllOf((Recovered(), Reached()))


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Args:
        short: tokens of the first stage.
        doublings: stages after it.
        tokens: of training in each stage.
        depths: of needles in a test.
        answer: tokens of a stage's rows that are left to the answer: a needle's prompt has so many fewer.
        per_ability: items of each ability of the general suite; 0 asks none.
    """

    short: int = 256
    doublings: int = 2
    tokens: int = 200_000
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    answer: int = 32
    per_ability: int = 16


QUICK = Size(tokens=4_000, doublings=1, depths=(0.5,), per_ability=2)


def cut_back(model: str, length: int, folder: Path) -> str:
    """A model folder whose context is short, made once."""
    if not (folder / "tokenizer_config.json").is_file():
        module, tokenizer = load(model)
        shorten(module, length)
        module.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
    return str(folder)


def stages(tokenizer: Tokenizer, size: Size, share: float = 1.0) -> Stream:
    """The stages, each tested on needles of all lengths up to its own.

    Args:
        tokenizer: of the model.
        size: how large.
        share: of the training tokens that the stages after the first get.
    """
    lengths = [size.short << i for i in range(size.doublings + 1)]
    made = []
    for number, length in enumerate(lengths):
        tokens = round(size.tokens * (share if number else 1.0))
        asked = [size.short // 2, *(n - size.answer for n in lengths[: number + 1])]
        train = (*needles(tokenizer, asked, tokens // 2, number), *texts(length, tokens // 2, number))
        test = Needles(tuple(asked), size.depths).items(tokenizer, origin=str(length))
        made.append(Experience(f"to-{length}", train, test, NextToken(), Found(), length=length))
    return Stream(tuple(made), name="long_context")


def needles(tokenizer: Tokenizer, lengths: Sequence[int], tokens: int, seed: int) -> tuple[Example, ...]:
    """Needles to learn from, as many tokens of each length; none that is asked in a test."""
    found: list[Example] = []
    for length in lengths:
        count = max(1, tokens // len(lengths) // length)
        rng = random.Random(f"depths {seed} {length}")
        for number in range(count):
            one = Needles((length,), (rng.random(),), distractors=number % 3, seed=1 + 1000 * seed + number)
            found += one.items(tokenizer, origin="train")
    return tuple(found)


def texts(length: int, tokens: int, seed: int) -> tuple[Example, ...]:
    """Pieces of Python's library, each about a row long."""
    folder = Path(get_path("stdlib"))
    whole = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(folder.glob("[a-z]*.py"))]
    letters = LETTERS * length
    pieces = [text[i : i + letters] for text in whole for i in range(0, len(text) - letters, letters)]
    chosen = random.Random(f"texts {seed} {length}").sample(pieces, max(1, tokens // length))
    return tuple(Example(text=piece, source="library", origin="texts") for piece in chosen)


def staged(model: str, longer: Method, size: Size, out: Path, progress: Progress, gate: Gate = GATE) -> Run:
    """One run of all stages; `out`'s name decides whether it is hasty."""
    hasty = out.name == "hasty"
    stream = stages(load_tokenizer(model), replace(size, doublings=1) if hasty else size, 0.02 if hasty else 1.0)
    learner = Learner(model, chain(LoRA(rank=16), longer), Recipe(batch_size=8))
    suite = general_suite(per_ability=size.per_ability) if size.per_ability else ()
    gate = gate if suite else Reached()
    return run(learner, stream, out, Settings(gate=gate, suite=suite, scores=out.parent / "scores"), progress)


def written(runs: dict[str, Run], size: Size, model: str) -> str:
    """The page beside this file: verdicts, and the grids before and after."""
    lines = ["# A longer context in stages", "", f"{model} cut back to {size.short} tokens; `{size}`.", ""]
    for name, done in runs.items():
        lines += [f"## {name}", "", *(f"- {e.experience}: **{e.kind}**. {e.reason}" for e in done.events[1:]), ""]
        lines += ["", "Needles found by length, in percent of the depths:", "", *_table(done), ""]
    return "\n".join(lines)


def _table(done: Run) -> list[str]:
    tests = [Example.from_row(row) for _, row in read_jsonl(done.folder / "tests.jsonl")]
    column = len(done.matrix.names) - 1
    grids = [grid(tests, row.items(column)) for row in done.matrix.rows]
    labels = ["cut back", *(f"after {name}" for name in done.matrix.names)]
    known = [(label, found) for label, found in zip(labels, grids, strict=False) if found is not None]
    if not known:
        return []
    head = [
        f"| | {' | '.join(map(str, known[0][1].lengths))} | perfect up to |",
        "|---" * (len(known[0][1].lengths) + 2) + "|",
    ]
    return head + [f"| {label} | {' | '.join(_means(found))} | {found.perfect} |" for label, found in known]


def _means(found: Grid) -> list[str]:
    columns = [[row[i] for row in found.scores if row[i] is not None] for i in range(len(found.lengths))]
    return [f"{100 * sum(s or 0.0 for s in column) / len(column):.0f}" for column in columns]


def main(
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/long_context"),
    model: Annotated[str, typer.Option(help="The model that is cut back.")] = "embedded",
    short: Annotated[int, typer.Option(help="Tokens that it is cut back to.")] = 256,
    doublings: Annotated[int, typer.Option(help="Stages after the first.")] = 2,
    tokens: Annotated[int, typer.Option(help="Of training in each stage.")] = 200_000,
    runs: Annotated[str, typer.Option(help=f"Of {', '.join(LONGER)} and hasty, by commas.")] = "yarn,hasty",
    quick: Annotated[bool, typer.Option(help="Only show that it works.")] = False,
) -> None:
    """Run the stages, and write what came of them beside this file."""
    size = replace(QUICK, short=short) if quick else Size(short, doublings, tokens)
    cut = cut_back(model, short, out / f"cut-{short}")
    with Bars() as bars:
        done = {name: staged(cut, LONGER.get(name, LONGER["yarn"]), size, out / name, bars) for name in runs.split(",")}
    write_report(done, out / "report.html")
    publish(out / "long_context.md" if quick else Path(__file__).with_suffix(".md"), written(done, size, model))
    for name, found in done.items():
        print(name, *(f"{e.kind} {e.experience}: {e.reason}" for e in found.events[1:]), sep="\n  ")


if __name__ == "__main__":
    typer.run(main)
