"""The command line; `everlearn --help` lists the commands.

Exit codes: 0 all is well; 1 an answer of no (the audit found a defect, the gate refused a version); 2 something could
not be understood, read or done, and the message says what to do; 130 stopped by Ctrl-C, and it says how to go on.

Imports stand inside the commands so that help answers at once.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everlearn.compare_command import compare
from everlearn.console import FAILED, NO, OK, STOPPED, print_json, print_table, resumable
from everlearn.errors import EverlearnError, Interrupted
from everlearn.merge_command import merge
from everlearn.options import Device, Dtype, Folder, Json, Machine, Model, Seed, Suite, Training
from everlearn.select_command import select
from everlearn.tokens_command import tokens

if TYPE_CHECKING:
    from everlearn.data.rejects import Reject
    from everlearn.fold import Run
    from everlearn.matrix import Matrix

app = typer.Typer(
    help="Keep a language model learning without forgetting.",
    epilog="Exit codes: 0 well; 1 the answer is no (audit, gate); 2 failed, the message says what to do; "
    "130 stopped, start again to go on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for both runs and the report.")] = Path("runs/demo"),
    seed: Seed = 0,
) -> None:
    """Teach a small model four things in a row, plainly and protected, and show what it kept.

    Uses the embedded SmolLM2-135M-Instruct. Stop with Ctrl-C and start again to go on.
    """
    from everlearn.demo import run_demo

    with resumable(out):
        run_demo(out, seed)


@app.command()
def run(
    ctx: typer.Context,
    stream: Annotated[
        Path,
        typer.Argument(help="A stream.yaml; or an earlier run's run.json, to repeat it but for what is said here."),
    ],
    out: Annotated[Path, typer.Option(help="The run's folder. A run that was stopped there goes on.")],
    model: Model = "embedded",
    method: Annotated[
        str, typer.Option(help="What fights forgetting; '' is plain full fine-tuning. See `everlearn methods`.")
    ] = "LoRA(rank=16), Replay(fraction=0.1)",
    recipe: Training = "Recipe()",
    gate: Annotated[str, typer.Option(help="Which versions to keep: 'Retain(drop=0.1)'; '' keeps all.")] = "",
    suite: Suite = "shipped",
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    engine: Machine = "Engine()",
    as_json: Json = False,
) -> None:
    """Learn a stream; score, judge and keep each version.

    Example: everlearn run stream.yaml --method "LoRA(rank=16), Replay(fraction=0.1)" --out runs/x
    """
    from everlearn.asking import Asked, prepare
    from everlearn.fold import run as fold
    from everlearn.models.parallel import launched
    from everlearn.progress import Bars
    from everlearn.types import Silent

    asked = Asked(str(stream), model, method, recipe, gate, suite, seed, dtype, device, engine)
    main = launched().main  # several processes speak with one voice
    learner, loaded, settings = prepare(asked, out, _given(ctx) & asdict(asked).keys() - {"stream"})
    if main:
        _tell(settings.rejects, out)
    with Bars() if main else nullcontext(Silent()) as bars, resumable(out):
        made = fold(learner, loaded, out, settings, bars)
    if main:
        if len(found := made.files.rejects()) > len(settings.rejects):
            _tell(found, out)
        _show(made, as_json)
    raise typer.Exit(NO if any(e.kind == "reject" for e in made.events) else OK)


app.command()(compare)


@app.command()
def audit(
    stream: Annotated[Path, typer.Argument(help="A stream.yaml, or a folder of experiences in a published layout.")],
    length: Annotated[int | None, typer.Option(help="Longest row in tokens; needs --model.")] = None,
    model: Annotated[str, typer.Option(help="Whose tokens are counted.")] = "embedded",
    as_json: Json = False,
) -> None:
    """Look for what would spoil a result: leaks, duplicates, empty targets, tests too small.

    Exit code 1 if there is a defect.
    """
    from everlearn.data.audit import audit as look
    from everlearn.data.render import render
    from everlearn.data.stream_file import read_stream
    from everlearn.models.load import load_tokenizer
    from everlearn.terminal import audit_table, rejects_table

    read = read_stream(stream, strict=False)
    tokenizer = load_tokenizer(model) if length else None
    found = look(read.stream, length, None if tokenizer is None else lambda e: len(render(tokenizer, e).tokens))
    spoils = found.spoils or bool(read.excess)
    if as_json:
        rejected = [asdict(r) for r in read.rejects]
        print_json({"findings": found.rows(), "rejected": rejected, "excess": list(read.excess), "spoils": spoils})
    else:
        print_table(audit_table(found))
        print_table(rejects_table(read.rejects))
        for sentence in read.excess:
            typer.echo(f"defect: {sentence}")
    raise typer.Exit(NO if spoils else OK)


@app.command()
def matrix(
    source: Annotated[Path, typer.Argument(help="The folder of a run, or a JSON or CSV file of published matrices.")],
    name: Annotated[str, typer.Option(help="Which matrix of a file that holds several.")] = "",
    as_json: Json = False,
) -> None:
    """Print R, and every figure the field reads off it, by the name of its definition."""
    from everlearn.matrix import load_published
    from everlearn.run_folder import RunFolder

    found = RunFolder(source).read_matrix() if source.is_dir() else load_published(source, name)
    _show_matrix(found, str(source), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of one run or several, shown side by side.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html in the first folder.")] = None,
) -> None:
    """Write one self-contained HTML page about one run or several."""
    from everlearn.fold import Run
    from everlearn.report import write_report

    typer.echo(write_report({folder.name: Run(folder) for folder in runs}, out or runs[0] / "report.html"))


@app.command()
def log(folder: Folder, as_json: Json = False) -> None:
    """What happened to each version: commits, rejections, roll-backs, with reasons."""
    from everlearn.run_folder import RunFolder
    from everlearn.terminal import events_table

    files = RunFolder(folder)
    files.asked()
    if as_json:
        print_json([asdict(e) for e in files.events()])
    else:
        print_table(events_table(files.events()))


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, to read all about it.")] = None, as_json: Json = False
) -> None:
    """The methods there are: where they act, what they keep and compute, where they work, their papers."""
    from everlearn.terminal import plain_table
    from everlearn.testing.documents import costs, method_page, method_rows

    if as_json:
        print_json([row for row in method_rows() if name in (None, row["method"])])
    elif name:
        typer.echo(method_page(name))
    else:
        legend = "bytes; P numbers learn of N; r rank, in and out widths of a layer, T tokens, D width of the model"
        print_table(plain_table(costs(), f"methods; combine them with commas. Memory in {legend}"))


app.command()(merge)
app.command()(select)
app.command()(tokens)


def _given(ctx: typer.Context) -> set[str]:
    """The parameters that were given on the command line, and not left to their defaults."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _tell(rejects: "Sequence[Reject]", out: Path) -> None:
    """Say which rows were set aside, beside the results."""
    from everlearn.data.rejects import named

    if rejects:
        typer.echo(f"{len(rejects)} rows set aside in {out / 'rejected.jsonl'}: {named(rejects)}", err=True)


def _show(made: "Run", as_json: bool) -> None:
    _show_matrix(made.matrix, str(made.folder), as_json)
    if not as_json:
        typer.echo(f"\nMore: everlearn report {made.folder}    everlearn log {made.folder}")


def _show_matrix(found: "Matrix", title: str, as_json: bool) -> None:
    from everlearn.measures import routing_accuracy, summary
    from everlearn.terminal import matrix_table, measures_table

    if as_json:
        measures = [asdict(m) for m in (*summary(found), *routing_accuracy(found))]
        print_json({"matrix": found.to_dict(), "measures": measures})
        return
    print_table(matrix_table(found, title))
    print_table(measures_table({title: found}))


def main() -> None:
    """The entry point of the `everlearn` command."""
    sys.path.append(str(Path.cwd()))  # so that a class in a file here has a name, as in mymodule:Interpolate()
    try:
        app()  # ends the process itself: after a command, a wrong word (2) or Ctrl-C (130)
    except Interrupted as stopped:
        typer.echo(str(stopped), err=True)
        sys.exit(STOPPED)
    except (EverlearnError, OSError) as error:  # a full disk, say, is no defect of the program
        typer.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
