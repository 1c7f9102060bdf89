"""The scales of LoRA's variants."""

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.methods.adapters import DoRA, LoRA, RSLoRA
from everlearn.models.adapted import adapted
from everlearn.models.dora import DoRALinear
from everlearn.models.lora import adapters
from everlearn.testing.toys import toy_model


def test_lora_scales_by_alpha_over_rank_and_rslora_by_alpha_over_its_root() -> None:
    for method, scale in ((LoRA(4, 6.0), 1.5), (LoRA(4), 2.0), (RSLoRA(4, 6.0), 3.0), (RSLoRA(9), 8 / 3)):
        model = toy_model()
        method.params(None, model)
        scales = [layer.scale for layer in adapters(model.module).values()]
        assert scales == pytest.approx([scale] * 14)


def test_dora_learns_lengths_beside_adapters() -> None:
    model = toy_model()
    DoRA(4, 6.0, targets="v_proj").params(None, model)
    layers = adapted(model.module)
    assert set(model.trainable()) == {f"{name}.{part}" for name in layers for part in ("A", "B", "length")}
    for layer in layers.values():
        assert isinstance(layer, DoRALinear)
        assert layer.scale == 1.5
        assert torch.allclose(layer.length, layer.weight.norm(dim=1))


def test_ranks_and_dropouts_without_a_meaning_are_refused() -> None:
    for kind in (LoRA, RSLoRA, DoRA):
        with pytest.raises(ConfigError, match="rank is 1 or more"):
            kind(rank=0)
        with pytest.raises(ConfigError, match="dropout"):
            kind(dropout=1.0)
