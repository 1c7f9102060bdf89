"""`everlearn compare`: methods side by side on one stream. Imports stand inside, so that help answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from everlearn.console import FAILED, OK, print_json, print_table, resumable
from everlearn.options import Device, Dtype, Json, Machine, Model, Suite, Training


def compare(
    stream: Annotated[Path, typer.Argument(help="A stream.yaml, or a folder of experiences in a published layout.")],
    methods: Annotated[
        list[str], typer.Option(help="'name=LoRA(rank=16), Replay()'; once for each. The first is compared with.")
    ],
    out: Annotated[Path, typer.Option(help="The grid's folder. A comparison that was stopped there goes on.")],
    seeds: Annotated[str, typer.Option(help="Whole numbers between commas.")] = "0,1,2",
    model: Model = "embedded",
    recipe: Training = "Recipe()",
    suite: Suite = "shipped",
    dtype: Dtype = None,
    device: Device = None,
    engine: Machine = "Engine()",
    workers: Annotated[int | None, typer.Option(help="Cells at a time, in processes of their own.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, or 'local' to start one here.")] = None,
    joint: Annotated[bool, typer.Option("--joint", help="Also learn all experiences together.")] = False,
    single: Annotated[bool, typer.Option("--single", help="Also learn each experience alone.")] = False,
    in_context: Annotated[
        bool, typer.Option("--in-context", help="Also ask the base model with demonstrations.")
    ] = False,
    shots: Annotated[int, typer.Option(help="Demonstrations before each test item, in context.")] = 8,
    as_json: Json = False,
) -> None:
    """Run methods under several seeds, and set them side by side with paired tests.

    Example: everlearn compare stream.yaml --methods "plain=LoRA()" --methods "replay=LoRA(), Replay()" --out runs/grid
    """
    from everlearn.asking import Asked, executor, prepare_grid
    from everlearn.grid.cells import Reference
    from everlearn.grid.compare import compare as run_grid
    from everlearn.progress import Bars
    from everlearn.terminal import grid_table

    asked = Asked(str(stream), model, recipe=recipe, suite=suite, dtype=dtype, device=device, engine=engine)
    references: dict[Reference, bool] = {"joint": joint, "single": single, "in_context": in_context}
    grid = prepare_grid(asked, methods, seeds, references, out, shots)
    with Bars() as bars, resumable(out):
        found = run_grid(grid, out, executor(workers, ray), bars)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(grid_table(found))
        typer.echo(f"\nThe same in {out}/comparison.md and comparison.json.")
    raise typer.Exit(FAILED if found.failures else OK)
