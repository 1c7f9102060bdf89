"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="The folder of a run, as given to --out.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, and nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
Model = Annotated[str, typer.Option(help="Hub name, directory, GGUF file, or 'embedded'.")]
Training = Annotated[str, typer.Option(help="How to train: 'Recipe(epochs=2, optimiser=AdamW(learning_rate=1e-4))'.")]
Machine = Annotated[str, typer.Option(help="How memory and disk are used: 'Engine(activations=8, disk=50)'.")]
Suite = Annotated[str, typer.Option(help="General ability: 'shipped', 'none', or a JSONL file.")]
Dtype = Annotated[str | None, typer.Option(help="Of frozen weights: float32, bfloat16; default by device.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; by default the best there is.")]
