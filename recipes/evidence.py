"""What a study's runs have shown, without their weights: small enough to be kept beside its table, and to go on from.

    python -m recipes.evidence keep runs/cft_study     # into recipes/evidence/cft_study.tar.xz
    python -m recipes.evidence restore runs/cft_study  # the other way round, on another machine

Cells of grids, the curves of runs and all else that a recipe reads as done are kept once they are done; a run that was
stopped on its way has weights to go on from, and stays where it is. What is restored is not learned again, its table is
written as from the runs themselves; a folder that is there already stays as it is.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from everlearn.errors import ConfigError
from everlearn.files import atomic_file, atomic_folder
from everlearn.progress import Bars
from everlearn.run_folder import RunFolder

KEPT = Path(__file__).with_suffix("")
"""Where archives lie."""
SHOWN = frozenset({".json", ".jsonl", ".sqlite", ".svg"})
"""Endings of files that say what came of a run."""
HEAVY = frozenset({"blobs", "scores", "checkpoint", "activations", "token_losses", "logs"})
"""Folders of what only serves a run on its way."""
ABOUT_ITEMS = "tests.jsonl"
"""The test items of a run, which the data has."""


def worth(folder: Path) -> Iterator[Path]:
    """The files to keep, in the order of their names.

    Args:
        folder: of a study, as its recipe's --out names it.
    """
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in HEAVY and done(path):
            yield from worth(path)
        elif path.is_file() and path.suffix in SHOWN and path.name != ABOUT_ITEMS:
            yield path


def done(folder: Path) -> bool:
    """Whether a folder holds no run that was stopped on its way, nor a model."""
    if (folder / "config.json").exists():
        return False
    if (folder / "run.json").exists():
        run, shown = RunFolder(folder), (folder / "matrix.json").exists()
        return shown and run.read_matrix().learned == len(run.asked()["stream"]["experiences"])
    return not (folder / "cell.json").exists() or (folder / "row.json").exists()


def keep(folder: Path, archive: Path) -> int:
    """Write an archive, the same bytes for the same runs.

    Returns:
        How many files are in it.

    Raises:
        ConfigError: if nothing is done there.
    """
    files = list(worth(folder)) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"{folder} holds nothing that is done; give the --out of a recipe that has run.")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(archive) as place, tarfile.open(place, "w:xz") as made, Bars() as bars:
        for number, path in enumerate(files, start=1):
            made.add(path, str(path.relative_to(folder)), filter=_anybody)
            bars.update("keeping", number, len(files))
    return len(files)


def restore(archive: Path, folder: Path) -> None:
    """Lay out what an archive has.

    Raises:
        ConfigError: if there is no archive, or the folder is there already.
    """
    if not archive.is_file():
        raise ConfigError(f"there is no {archive}.")
    if folder.exists():
        raise ConfigError(f"{folder} is there already; name another folder, or delete it first.")
    with atomic_folder(folder) as place, tarfile.open(archive) as kept:
        kept.extractall(place, filter="data")


def _anybody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(mtime=0, mode=0o644, uid=0, gid=0, uname="", gname="", deep=False)


Runs = Annotated[Path, typer.Argument(help="The --out of a recipe.")]
app = typer.Typer(add_completion=False)


@app.command("keep")
def keep_command(runs: Runs) -> None:
    """Keep what is done beside the recipes."""
    archive = KEPT / f"{runs.name}.tar.xz"
    count = keep(runs, archive)
    typer.echo(f"{archive}: {count} files, {archive.stat().st_size / 1e6:.2f} MB")


@app.command("restore")
def restore_command(runs: Runs) -> None:
    """Lay out what was kept of a study of this name, to go on from."""
    restore(KEPT / f"{runs.name}.tar.xz", runs)


if __name__ == "__main__":
    app()
