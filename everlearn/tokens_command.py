"""`everlearn tokens`: which tokens are learned. Imports stand inside, so that help answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from everlearn.errors import ConfigError
from everlearn.options import Device, Dtype, Model


def tokens(
    texts: Annotated[str, typer.Argument(help="Documents or demonstrations: a file, a folder of texts, or hub:NAME.")],
    objective: Annotated[str, typer.Option(help="Who chooses: 'Selective(\"DIRECTORY\", share=0.6)'.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("tokens.html"),
    model: Model = "embedded",
    rows: Annotated[int, typer.Option(help="How many examples are shown, from the first on.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Rows of an optimiser step, among which tokens are ranked.")] = 16,
    length: Annotated[int, typer.Option(help="Longest row, in tokens.")] = 512,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Write one self-contained HTML page that shows in colour which tokens are learned, and by which numbers.

    Example: everlearn tokens handbook.txt --objective 'Selective("models/curated", share=0.6)' --out tokens.html
    """
    from everlearn.config import parse
    from everlearn.data.sources import read
    from everlearn.examples import Plan
    from everlearn.models.language_model import LanguageModel
    from everlearn.objectives.selective import Selective
    from everlearn.progress import Bars
    from everlearn.token_report import chosen_tokens, write_tokens

    chooses = parse(objective)
    if not isinstance(chooses, Selective) or min(rows, batch_size) < 1:
        raise ConfigError(f'{objective!r} with {rows} rows: give one such as Selective("DIRECTORY"), and 1 or more.')
    found = read(texts).examples
    examples = [found[i] for i in range(min(rows, len(found)))]
    plan = Plan(batch_size=batch_size, length=length)
    with Bars() as bars:
        shown = chosen_tokens(chooses, LanguageModel.open(model, dtype, device), examples, plan, bars)
    typer.echo(write_tokens(shown, chooses, model, out))
