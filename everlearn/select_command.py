"""`everlearn select`: documents that are worth learning from. Imports stand inside, so that help answers at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everlearn.errors import ConfigError

if TYPE_CHECKING:
    from everlearn.selecting.criteria import Criterion
    from everlearn.selecting.quality import Quality


def select(
    source: Annotated[str, typer.Argument(help="Documents: a .jsonl or text file, a folder, 'hub:owner/name'.")],
    out: Annotated[Path, typer.Option(help="Where kept documents go, as JSONL; a card is written beside it.")],
    by: Annotated[
        list[str] | None,
        typer.Option(help="'Novelty()', 'WordEntropy()', \"Similarity('task.jsonl')\", ...; once for each."),
    ] = None,
    share: Annotated[float, typer.Option(help="Of the bytes that pass the filters, in (0, 1].")] = 1.0,
    how: Annotated[
        str, typer.Option(help="hard: the best; soft: drawn by rank; gumbel: drawn by exp(score).")
    ] = "hard",
    quality: Annotated[str, typer.Option(help="'Quality(words=(20, 1000))'; 'none' keeps any text.")] = "Quality()",
    near: Annotated[float, typer.Option(help="How alike near duplicates are, in (0, 1]; 0 keeps them.")] = 0.8,
    model: Annotated[str, typer.Option(help="Who reads, for criteria that ask: name, directory.")] = "embedded",
    length: Annotated[int, typer.Option(help="Most tokens that are read of a document.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 0,
) -> None:
    """Filter documents, score them, and keep the best, with a card that says what was kept and why.

    Example: everlearn select crawl/ --out kept.jsonl --by "Novelty()" --by "WordEntropy()" --share 0.1
    """
    from everlearn.data.rejects import check_rejects
    from everlearn.data.sources import read
    from everlearn.models.language_model import LanguageModel
    from everlearn.progress import Bars
    from everlearn.selecting.choosing import Selection
    from everlearn.selecting.criteria import DocumentReader

    criteria = tuple(map(_criterion, by or ()))
    selection = Selection(criteria, share, how, _rules(quality), near or None, seed)  # type: ignore[arg-type]  # checked there
    rows = read(source)
    check_rejects(rows.rejects, rows.total)
    with Bars() as bars:
        reader = DocumentReader(LanguageModel.open(model), length) if criteria else None
        chosen = selection.choose(rows.examples, reader, bars)
        card = chosen.write(out, bars)
    (documents, size), all_of = chosen.card.kept, len(rows.examples)
    typer.echo(f"{out}  ({documents} of {all_of} documents, {size} of {chosen.card.size} bytes; why stands in {card})")


def _criterion(text: str) -> "Criterion":
    from everlearn.config import parse
    from everlearn.selecting.criteria import Criterion

    if not isinstance(found := parse(text), Criterion):
        raise ConfigError(f"--by {text!r}: that is no criterion; try 'Novelty()'.")
    return found


def _rules(text: str) -> "Quality | None":
    from everlearn.config import parse
    from everlearn.selecting.quality import Quality

    if text == "none":
        return None
    if not isinstance(found := parse(text), Quality):
        raise ConfigError(f"--quality {text!r}: that is no rule for texts; try 'Quality(words=(20, 1000))' or 'none'.")
    return found
