"""`everlearn merge`: several models of one base as one. Imports stand inside, so that help answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from everlearn.errors import ConfigError


def merge(
    out: Annotated[Path, typer.Argument(help="The new model's directory; it must not be there.", show_default=False)],
    of: Annotated[
        list[str],
        typer.Option(help="A model's or PEFT adapter's directory, RUN (its head) or RUN@VERSION; once for each."),
    ],
    method: Annotated[str, typer.Option(help="'TIES(density=0.2)', 'Soup()', 'MagMax()'; see `everlearn methods`.")],
    base: Annotated[str, typer.Option(help="What they were fine-tuned from: a directory, hub name, or 'embedded'.")],
    weights: Annotated[str, typer.Option(help="Numbers between commas, one for each model; '' is 1 each.")] = "",
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 0,
    memory: Annotated[int, typer.Option(help="MiB that blocks of tensors may take; it changes no result.")] = 256,
) -> None:
    """Merge models of one base into a new model's directory, tensor by tensor in blocks of rows.

    Example: everlearn merge merged --base embedded --of runs/a --of runs/b@3f2a --method "TIES(density=0.2)"
    """
    from everlearn.config import parse
    from everlearn.merge_folders import REPORT, Plan, merge_folders
    from everlearn.merge_rules import Merging
    from everlearn.progress import Bars

    rule = parse(method)
    if not isinstance(rule, Merging):
        raise ConfigError(f"--method {method!r} is no rule for merging files; try 'Soup()' or 'TIES(density=0.2)'.")
    with Bars() as bars:
        merge_folders(out, base, of, rule, Plan(_numbers(weights), seed, memory * 2**20), bars)
    typer.echo(f"{out}  ({len(of)} of {base} by {method}; what was merged stands in {REPORT})")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if text.strip())
    except ValueError as error:
        raise ConfigError(f"--weights {text!r}: give numbers between commas, such as 0.5,0.5.") from error
