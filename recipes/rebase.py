"""An adapter moved onto a further-trained base: how much of its gain it keeps with a tenth of its training rows.

The old base is the embedded model, the task the topics of DBpedia (14) as free answers. An adapter learns the task on
the old base. The base is then trained on, all of it, on other text (Shakespeare), and the adapter is moved onto the
new base by `everlearn.rebase_folders`: begun from the old one, taught by it, or both, from a tenth of the rows. Beside
it stand the old adapter on the new base as it is, a fresh adapter from the same tenth, and one from all rows.

    python -m recipes.rebase --data path/to/data --out runs/rebase    # all of it, and the table
    python -m recipes.rebase --data path/to/data --quick              # few rows, one seed, no table

The folder has mtl15/ and text/. A seed draws the rows and all randomness inside the runs; the new base is one for all
seeds. Nothing was tuned but that the new base's learning rate is five times the library's, so that there is a shift. It
can be stopped and started again; --rows, --text, --tests and --seeds make it larger.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer

from everlearn.config import show
from everlearn.data.sequences import select
from everlearn.data.sources import read
from everlearn.data.streams import domain_incremental, experience
from everlearn.data.texts import read_texts
from everlearn.errors import ConfigError, Interrupted
from everlearn.examples import Example, Message
from everlearn.files import atomic_folder
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.models.optim import AdamW, Recipe
from everlearn.progress import Bars
from everlearn.randomness import permutation
from everlearn.rebase_folders import Rebasing, rebase
from everlearn.types import Progress, Stream
from recipes.deadline import Until
from recipes.intervals import interval
from recipes.pages import publish
from recipes.several import several

ADAPTER = LoRA(rank=8)
RECIPE = Recipe(batch_size=8, length=256)
ONWARD = Recipe(AdamW(learning_rate=1e-4), batch_size=8, length=256)
"""How the base is trained on."""
WAYS = ("start", "distil", "both")
FRESH = "a fresh adapter, "
QUESTION = "What is the topic of the following paragraph?\n"


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Args:
        rows: that the old adapter learns from.
        share: of them that a moved one learns from.
        tests: test rows.
        text: documents that the base is trained on with.
    """

    rows: int = 600
    share: float = 0.1
    tests: int = 200
    text: int = 200


def task(data: Path, seed: int, size: Size, share: float = 1.0) -> Stream:
    """The topics, with the seed's rows.

    Raises:
        ConfigError: if the data are not there.
    """
    folder = data / "mtl15" / "TC" / "dbpedia"
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not there; give the folder that has mtl15/ and text/ by --data.")
    layout = {"prompt": "sentence", "response": "label"}
    train, test = (read(folder / f"{part}.json", layout).examples for part in ("train", "test"))
    drawn = permutation(len(train), seed, "rows")[: size.rows]
    rows = [_asked(train[i]) for i in drawn[: max(1, round(share * len(drawn)))]]
    tests = [_asked(test[i]) for i in permutation(len(test), 0, "tests")[: size.tests]]
    return domain_incremental([experience("topics", rows, tests, (), "ExactMatch()")], f"topics-{seed}-{share:g}")


def _asked(row: Example) -> Example:
    text = " ".join(row.prompt[-1].content.split()[:60])
    return replace(row, messages=(Message("user", QUESTION + text), *row.messages[-1:]))


def new_base(data: Path, out: Path, size: Size, progress: Progress) -> Path:
    """The embedded model trained on, all of it, saved as a model; what is done is not done again."""
    folder = out / f"base-{size.text}"
    if not (folder / "config.json").is_file():
        found = read_texts([data / "text" / "shakespeare.txt"], 1000).examples
        order = permutation(len(found), 0, "text")
        train, test = (select(found, order[a:b]) for a, b in ((0, size.text), (size.text, size.text + 5)))
        stream = domain_incremental([experience("shakespeare", train, test, ())], "onward")
        learner = Learner("embedded", chain(), ONWARD)
        made = run(learner, stream, out / f"onward-{size.text}", Settings(suite=()), progress)
        model = learner.restore(learner.open(), made.files.versions.get(made.files.ledger.head() or ""))
        with atomic_folder(folder) as place:
            model.module.save_pretrained(place)  # type: ignore[operator]
            model.tokenizer.save_pretrained(place)
    return folder


def scores(seed: int, progress: Progress, data: Path, out: Path, size: Size) -> dict[str, float]:
    """What each model is worth for one seed, in fractions, and minutes inside steps; what is done is kept."""
    base = str(new_base(data, out, size, progress))
    place = out / f"{size.rows}-{size.share:g}-{size.tests}-{size.text}" / f"seed-{seed}"
    whole, tenth = task(data, seed, size), task(data, seed, size, size.share)
    settings, found, minutes = Settings(suite=(), scored="last"), dict[str, float](), dict[str, float]()
    old = run(Learner("embedded", ADAPTER, RECIPE, seed), whole, place / "old", settings, progress)
    for way in WAYS:
        how = Rebasing(way, recipe=RECIPE, seed=seed)  # the tenth is drawn already, the same for all
        made = rebase(str(old.folder), base, tenth, place / way, how, progress)
        found |= {s.model: s.mean for s in made.scores if s.model != "recycled"}
        found[f"moved, {way}"] = made.scores[-1].mean
        minutes[f"moved, {way}"] = _minutes(Run(place / way / "run"))
    for name, stream in ((f"{FRESH}a share of the rows", tenth), (f"{FRESH}all rows", whole)):
        there = place / name.removeprefix(FRESH).replace(" ", "-")
        fresh = run(Learner(base, ADAPTER, RECIPE, seed), stream, there, settings, progress)
        found[name], minutes[name] = fresh.matrix.rows[-1].scores[0] or 0.0, _minutes(fresh)
    return found | {f"minutes, {name}": spent for name, spent in minutes.items()}


def _minutes(done: Run) -> float:
    return sum(row["seconds"] for row in done.files.metrics() if "seconds" in row) / 60


def main(
    data: Annotated[Path, typer.Option(help="The folder that has mtl15/ and text/.")],
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/rebase"),
    rows: Annotated[int, typer.Option(help="Rows that the old adapter learns from.")] = 600,
    share: Annotated[float, typer.Option(help="Of them that a moved one learns from.")] = 0.1,
    tests: Annotated[int, typer.Option(help="Test rows.")] = 200,
    text: Annotated[int, typer.Option(help="Documents of 1,000 characters that the base learns.")] = 200,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    workers: Annotated[int, typer.Option(help="Seeds at a time.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Stop after so many, to go on another day.")] = None,
    quick: Annotated[bool, typer.Option(help="16 rows, 8 tests, 8 documents, one seed; prints its table.")] = False,
) -> None:
    """Run the study, and write its table beside this file."""
    size = Size(16, 0.5, 8, 8) if quick else Size(rows, share, tests, text)
    chosen = range(1 if quick else seeds)
    make = partial(scores, data=data, out=out, size=size)
    with Bars() as bars:
        until = Until(bars, hours)
        new_base(data, out, size, until)  # which all seeds share
        several(make, chosen, workers, until, "seeds")
        found = [make(seed, until) for seed in chosen]
    page = _page(found, size)
    if quick:
        typer.echo(page)
        return
    publish(Path(__file__).with_suffix(".md"), page)


def _page(found: Sequence[Mapping[str, float]], size: Size) -> str:
    lines = [
        "# An adapter moved onto a further-trained base",
        "",
        f"`python -m recipes.rebase --data path/to/data --rows {size.rows} --share {size.share:g} --tests {size.tests} "
        f"--text {size.text} --seeds {len(found)}`; everlearn {version('everlearn')}, torch {version('torch')}, "
        f"{torch.get_num_threads()} thread.",
        f"`{show(ADAPTER)}`, `{show(RECIPE)}`; the base trained on by `{show(ONWARD)}`. Exact match in percent,",
        f"n = {size.tests} a seed; mean [95 % t-interval] over {len(found)} seeds. The share kept is the gain over the",
        "new base, of what the old adapter had gained over the old one.",
        "",
        "| | score | gain kept, percent | minutes |",
        "|---" * 4 + "|",
    ]
    for name in [name for name in found[0] if not name.startswith("minutes")]:
        kept = "-" if name.startswith("old") else interval([_kept(one, name) for one in found])
        spent = [one[f"minutes, {name}"] for one in found if f"minutes, {name}" in one]
        cells = [interval([one[name] for one in found]), kept, f"{fmean(spent):.2f}" if spent else "-"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _kept(one: Mapping[str, float], name: str) -> float:
    had = one["old base + adapter"] - one["old base"]
    return (one[name] - one["new base"]) / had if had else float("nan")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ConfigError, Interrupted) as error:
        sys.exit(str(error))
