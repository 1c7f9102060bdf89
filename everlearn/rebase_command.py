"""`everlearn rebase`: an adapter onto a newer base model. Imports stand inside, so that help answers at once."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from everlearn.console import print_json, print_table, resumable
from everlearn.errors import ConfigError
from everlearn.options import Device, Dtype, Json, Seed, Training


def rebase(
    adapter: Annotated[str, typer.Argument(help="A PEFT adapter's folder, RUN (its head) or RUN@VERSION.")],
    onto: Annotated[str, typer.Option(help="The newer base model: a directory, a hub name, or 'embedded'.")],
    stream: Annotated[Path, typer.Option(help="The task: a stream.yaml with rows to learn from and tests.")],
    out: Annotated[Path, typer.Option(help="The folder that is written; a call that was stopped goes on.")],
    by: Annotated[str, typer.Option(help="start: from the old adapter; distil: from what it says; or both.")] = "both",
    share: Annotated[float, typer.Option(help="Of the training rows, in (0, 1].")] = 1.0,
    strength: Annotated[float, typer.Option(help="Nats charged for a nat of divergence from the old model.")] = 1.0,
    recipe: Training = "Recipe()",
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Move an adapter onto a newer base model, and score it before and after (arXiv:2305.08702).

    Example: everlearn rebase runs/a --onto models/newer --stream task.yaml --out rebased --share 0.1
    """
    from everlearn.config import parse
    from everlearn.data.stream_file import read_stream
    from everlearn.models.optim import Recipe
    from everlearn.progress import Bars
    from everlearn.rebase_folders import REPORT, Rebasing
    from everlearn.rebase_folders import rebase as move
    from everlearn.terminal import scores_table

    asked = parse(recipe)
    if not isinstance(asked, Recipe):
        raise ConfigError(f"--recipe {recipe!r} is a {type(asked).__name__}; give a Recipe(...).")
    how = Rebasing(by, share, strength, asked, seed, dtype, device)  # type: ignore[arg-type]
    with Bars() as bars, resumable(out):
        made = move(adapter, onto, read_stream(stream).stream, out, how, bars)
    if as_json:
        print_json({"scores": [asdict(score) for score in made.scores], "kept": made.kept, "folder": str(out)})
        return
    print_table(scores_table(made.scores, f"{adapter} onto {onto}, in percent"))
    kept = "the adapter had gained nothing" if made.kept is None else f"{100 * made.kept:.1f} % of its gain kept"
    typer.echo(f"{kept}; {out / 'adapter'} is the new adapter, and {out / REPORT} the evidence.")
