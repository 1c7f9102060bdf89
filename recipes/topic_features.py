"""Texts of 18 topics, and what the embedded model makes of each of them: one pass, kept in a file."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from everlearn.data.packing import Row, collate, split_by_tokens
from everlearn.data.sources import read
from everlearn.errors import ConfigError
from everlearn.examples import Encoded, Example, Message
from everlearn.files import atomic_file
from everlearn.models.language_model import LanguageModel
from everlearn.models.layers import decoder_layers
from everlearn.types import Progress
from recipes.feature_network import LAYERS

SOURCES = ("TC/dbpedia", "TC/agnews")
QUESTION = "What is the topic of the following paragraph?\n"
ROWS = 145
"""Of each class."""


@dataclass(frozen=True)
class Pool:
    """All texts, each with its class, and what the embedded model makes of them.

    Args:
        labels: the class of each text, a word.
        features: (N, D).
        block: the embedded model's own weights, see `recipes.feature_network.feature_folder`.
    """

    labels: tuple[str, ...]
    features: Tensor
    block: Mapping[str, Tensor]


def pool(data: Path, out: Path, progress: Progress) -> Pool:
    """The texts with their features, which are computed once and kept.

    Args:
        data: the folder mtl15.
        out: the folder of all runs.
        progress: who wants to know how far it is.

    Raises:
        ConfigError: if the data are not there.
    """
    rows = [row for source in SOURCES for row in _rows(data / source)]
    key = hashlib.sha256("\n".join(row.prompt[-1].content for row in rows).encode()).hexdigest()[:12]
    file = out / f"features-{key}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        found = _made(rows, progress)
        with atomic_file(file) as path:
            save_file(found, path)
    block = load_file(file)
    features = block.pop("features")
    return Pool(tuple(row.response.strip().lower().replace(" ", "-") for row in rows), features, block)


def _rows(folder: Path) -> list[Example]:
    """The first ROWS different rows of each class."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not there; give the folder mtl15 by --data.")
    layout, counts, found = {"prompt": "sentence", "response": "label"}, dict[str, int](), dict[str, Example]()
    for row in (row for part in ("train", "test") for row in read(folder / f"{part}.json", layout).examples):
        text = row.prompt[-1].content
        if text not in found and counts.get(row.response, 0) < ROWS:
            counts[row.response] = counts.get(row.response, 0) + 1
            found[text] = row
    return list(found.values())


def _made(rows: Sequence[Example], progress: Progress) -> dict[str, Tensor]:
    """Features of texts, and the block's weights, in float32."""
    model = LanguageModel.open("embedded")
    last, seen = decoder_layers(model.module)[-1], list[Tensor]()
    prompts = [model.encode_prompt((Message("user", QUESTION + row.prompt[-1].content.strip()),)) for row in rows]
    norm = last.get_submodule("post_attention_layernorm")
    hook = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features = torch.zeros(len(rows), len(norm.get_parameter("weight")))
    documents, done = [Row((Encoded(p, (False,) * len(p)),)) for p in prompts], 0
    with torch.inference_mode():
        for group in split_by_tokens(documents, 4096):
            model.hidden(collate([documents[i] for i in group]))
            states = seen.pop()
            for place, i in enumerate(group):
                features[i] = states[place, len(prompts[i]) - 1].float()
            done += len(group)
            progress.update("features", done, len(rows))
    hook.remove()
    named = {name: f"mlp.{name}.weight" for name in LAYERS} | {"norm": "post_attention_layernorm.weight"}
    block = {name: last.get_parameter(path) for name, path in named.items()}
    block["last_norm"] = model.module.get_parameter("model.norm.weight")
    return {"features": features} | {n: w.detach().float().contiguous().clone() for n, w in block.items()}
