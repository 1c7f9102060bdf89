"""Three domains learned in turn, from text: what the embedded model keeps of the earlier ones, in bits per byte.

Shakespeare, Wikipedia (WikiText-2) and the source of Python's library. Each arm learns the same documents, a domain
after the other, with one difference from `plain`: replay of old text, or of old states of the network (latent replay)
in the same bytes, or of the same documents; a learning rate that is not warmed up again; branches of a stable one;
adapters in place of all parameters; or, as a bound, all domains at once.

    python -m recipes.domains --text path/to/text --out runs/domains --workers 2   # all of it: table and pictures
    python -m recipes.domains --text path/to/text --quick                          # few documents, into OUT

The lower twenty of thirty layers stand still in all arms, so that stored states do not age, and a step costs half of
one of all layers; "full" means all parameters above. The learning rates of `plain` and of `lora` are those of RATES
that learn the domains best, as each was just learned, on documents of their own under seed 100, which is none of the
table's; all other arms take `plain`'s. Nothing else was tuned.

It can be stopped and started again. `--documents`, `--tests`, `--seeds` and `--frozen 0` (without latent replay) let it
grow. The whole has not been run yet; ninety minutes on two cores are guessed from a few runs on a busy machine.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from platform import python_version
from statistics import fmean
from typing import Annotated

import typer

from everlearn.config import show
from everlearn.errors import Interrupted
from everlearn.figures import loss_lines
from everlearn.files import write_atomic
from everlearn.progress import Bars
from recipes.deadline import Until
from recipes.domain_runs import SWEPT, Job, Study, Told, bits, forgetting, gap, just_learned, learned, rates, swept
from recipes.domain_texts import DOMAINS, gain_interval
from recipes.intervals import interval
from recipes.pages import publish
from recipes.several import several

DRAWN = ("plain", "replay_25", "no_rewarm", "branches", "lora")
"""Arms whose loss on earlier domains is drawn, of the first seed."""
STYLE = (
    "<style>svg { background: #ffffff; font-family: sans-serif; --ink: #17191d; --muted: #5b616b; --rule: #d5d8dd; "
    "--series-0: #c8501e; --series-1: #1768ac; --series-2: #0b7a5b; }</style>"
)
Found = Mapping[str, Sequence[Told]]
"""What the finished runs of each arm tell, by seed."""


def written(study: Study, found: Found, asked: Mapping[str, float]) -> str:
    """The page, down to what is written by hand.

    Args:
        study: the plan.
        found: the finished runs of each arm; `plain` has as many as any other.
        asked: the learning rate of each arm.
    """
    known = {name: runs for name, runs in found.items() if runs}
    parts = [_heading(study, found), *_table(known, asked), *_matrices(known), *_sweep(study)]
    parts += [f"- {name}: `{show(study.method(name, False))}`, `{show(study.arms[name].schedule)}`" for name in known]
    pictures = [f"![{_title(name)}](domains-{name}.svg)\n" for name in DRAWN if name in known]
    return "\n".join([*parts, "", *pictures])


def _heading(study: Study, found: Found) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("everlearn", "torch", "transformers"))
    done, total = sum(map(len, found.values())), len(study.arms) * len(study.seeds)
    first = next((runs[0] for runs in found.values() if runs), None)
    sizes = [f"{name} {sum(own):,}" for name, own in zip(DOMAINS, first["sizes"], strict=True)] if first else []
    return "\n".join(
        [
            "# Three domains learned in turn, from text",
            "",
            f"{done} of {total} runs. `python -m recipes.domains --documents {study.documents} --tests {study.tests} "
            f"--seeds {len(study.seeds)} --frozen {study.frozen}`;",
            f"{study.model}; {packages}, Python {python_version()}.",
            f"{study.documents} documents of each domain to learn from, drawn by the seed; {study.tests} for the test, "
            f"the same for all: bytes of {', '.join(sizes)}.",
            "",
            "Bits per byte: the sum of all documents' losses over the sum of their UTF-8 bytes, lower is better.",
            "*mean*: over the three domains after the last one. *learned*: on each domain when it was just learned.",
            "*forgetting*: rise on the first two from then to the end. *- plain*: of the mean, over seeds [95 % "
            "t-interval],",
            "and over documents [95 % bootstrap interval, the same documents under both, averaged over seeds].",
            "*general*: percent right of the general suite, after the last one less before the first. *gap*: the "
            "highest loss on the first domain",
            "while the second is learned less that at its end, nats a token, first seed. *kept*: old examples, in "
            "bytes. No correction for the number of comparisons.",
            "",
        ]
    )


def _table(found: Found, asked: Mapping[str, float]) -> Iterator[str]:
    columns = "arm, rate, mean, learned, forgetting, - plain (seeds), - plain (documents), general, gap, kept, minutes"
    yield "| " + columns.replace(", ", " | ") + " |"
    yield "|---" * 11 + "|"
    for name, runs in found.items():
        yield f"| {name} | {asked[name]:g} | " + " | ".join(_row(name, runs, found["plain"])) + " |"
    yield ""


def _row(name: str, runs: Sequence[Told], plain: Sequence[Told]) -> list[str]:
    matrices, lost = [bits(run) for run in runs], [forgetting(bits(run)) for run in runs]
    learned = [fmean(m[i + 1][i] for i in range(len(m) - 1)) for m in matrices if len(m) > 2]
    risen = [value for value in lost if value is not None]
    means = [fmean(m[-1]) for m in matrices]
    beside = ["-", "-"]
    if name != "plain":
        gains = [mean - fmean(bits(other)[-1]) for mean, other in zip(means, plain, strict=False)]
        low_high = gain_interval(_averaged(runs), _averaged(plain[: len(runs)]), runs[0]["sizes"])
        beside = [interval(gains, 1, 4), "{:.4f} [{:.4f}, {:.4f}]".format(*low_high)]
    general = [run["general"][-1] - run["general"][0] for run in runs if run["general"]]
    peak, kept = gap(runs[0]), runs[0]["kept"]
    cells = [interval(means, 1, 3), *(interval(each, 1, 3) if each else "-" for each in (learned, risen)), *beside]
    cells += [interval(general) if general else "-", "-" if peak is None else f"{peak:.3f}", f"{kept:,}"]
    return [*cells, f"{fmean(run['minutes'] for run in runs):.1f}"]


def _averaged(runs: Sequence[Told]) -> list[list[float]]:
    """The documents' losses under the last version, by domain, averaged over the seeds."""
    domains = zip(*(run["nats"][-1] for run in runs), strict=True)
    return [[fmean(same) for same in zip(*each, strict=True)] for each in domains]


def _matrices(found: Found) -> Iterator[str]:
    yield from ("Bits per byte on each domain, averaged over the seeds:", "")
    yield f"| arm | after | {' | '.join(DOMAINS)} |"
    yield "|---" * (2 + len(DOMAINS)) + "|"
    for place, (name, runs) in enumerate(found.items()):
        matrices = [bits(run) for run in runs]
        names = ["base", *DOMAINS] if len(matrices[0]) > 2 else ["base", "all"]
        for after, rows in list(zip(names, zip(*matrices, strict=True), strict=True))[1 if place else 0 :]:
            means = (f"{fmean(cells):.3f}" for cells in zip(*rows, strict=True))
            yield f"| {'' if after == 'base' else name} | {after} | {' | '.join(means)} |"
    yield ""


def _sweep(study: Study) -> Iterator[str]:
    yield from (
        f"Bits per byte by learning rate, seed {SWEPT}: as just learned (by which it is chosen), and at the",
        "",
    )
    yield "end:"
    yield ""
    for name, jobs in swept(study).items():
        cells = [f"{job.rate:g} {just_learned(job):.3f}, {fmean(bits(job.told)[-1]):.3f}" for job in jobs if job.told]
        yield f"- {name}: {'; '.join(cells) or 'not swept'}"
    yield ""


def _title(name: str) -> str:
    return f"Loss on earlier domains while later ones are learned: {name}"


def drawn(found: Found, folder: Path) -> None:
    """Draw the loss on earlier domains on the way, a file for each arm of DRAWN.

    Args:
        found: the finished runs of each arm.
        folder: of the page.
    """
    for name in DRAWN:
        if found.get(name):
            run = found[name][0]
            picture = loss_lines(_title(name), run["looks"], [(str(n), int(start)) for n, start in run["starts"]])
            whole = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{STYLE}", 1)
            write_atomic(folder / f"domains-{name}.svg", whole)


def main(
    text: Annotated[Path, typer.Option(help="The folder of the texts.")],
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/domains"),
    documents: Annotated[int, typer.Option(help="Documents of each domain that are learned.")] = Study.documents,
    tests: Annotated[int, typer.Option(help="Documents of each domain's test.")] = Study.tests,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    frozen: Annotated[int, typer.Option(help="Lower layers that stand still.")] = Study.frozen,
    only: Annotated[str, typer.Option(help="Arms beside plain, by commas.")] = "",
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Stop after so many, to go on another day.")] = None,
    quick: Annotated[bool, typer.Option(help="Few documents and arms, one seed, no sweep.")] = False,
) -> None:
    """Make the runs, and write page and pictures beside this file; those of a quick study into its folder."""
    study = Study(text, out, documents, tests, seeds=tuple(range(seeds)), frozen=frozen)
    study = replace(study, only=tuple(filter(None, only.split(","))))
    if quick:
        study = replace(study, documents=8, tests=3, watched=2, every=1, per_ability=1, seeds=(0,), frozen=frozen or 24)
        study = replace(study, only=study.only or ("replay_25", "latent_bytes", "branches", "lora", "together"))
    sweep = () if quick else swept(study).values()
    try:
        with Bars() as bars:
            until = Until(bars, hours)
            several(learned, [job for jobs in sweep for job in jobs if job.told is None], workers, until)
            several(learned, [job for job in _jobs(study, quick) if job.told is None], workers, until)
    except Interrupted as stopped:
        typer.echo(str(stopped))
    if quick or all(job.told for jobs in swept(study).values() for job in jobs):
        _publish(study, quick, out / "domains.md" if quick else Path(__file__).with_suffix(".md"))


def _jobs(study: Study, quick: bool) -> list[Job]:
    best = rates(study, quick)
    return [Job(study, name, best[arm.rate], seed) for seed in study.seeds for name, arm in study.arms.items()]


def _publish(study: Study, quick: bool, file: Path) -> None:
    jobs = _jobs(study, quick)
    own = {name: [job for job in jobs if job.name == name] for name in study.arms}
    found = {name: [job.told or {} for job in takewhile(lambda job: job.told, of)] for name, of in own.items()}
    drawn(found, file.parent)
    publish(file, written(study, found, {job.name: job.rate for job in jobs}))


if __name__ == "__main__":
    typer.run(main)
