"""A toy that is routed by what its prompts say, for tests of everything that has to carry routes along."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everlearn.models.language_model import LanguageModel
from everlearn.models.routes import Request, Routes, Switch
from everlearn.models.soft_prompts import prompted
from tests.models.lively import lively_model

EXPERTS = 3


class Forked(nn.Module):
    """y = W x + sum_k w_k E_k x: experts in full, weighed by the switch alone."""

    def __init__(self, base: nn.Linear, switch: Switch) -> None:
        super().__init__()
        self.base, self.switch = base, switch
        self.experts = torch.randn(EXPERTS, *base.weight.shape, dtype=base.weight.dtype) / 2

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.einsum("bti,koi->btok", x, self.experts)
        found: Tensor = self.base(x) + (parts * self.switch(x)[:, :, None]).sum(-1)
        return found


class BySum:
    """Sends a prompt where the sum of its tokens says; or where the told experience, a number, says."""

    def __init__(self, weighs: bool, leads: Sequence[Sequence[int]]) -> None:
        self.switch, self.weighs, self.leads = Switch(EXPERTS), weighs, leads
        self.heard: list[Request] = []

    def route(self, requests: Sequence[Request]) -> Routes:
        self.heard += requests
        chosen = [int(r.task or sum(r.prompt)) % EXPERTS for r in requests]
        weights = nn.functional.one_hot(torch.tensor(chosen), EXPERTS).double() if self.weighs else None
        return Routes(weights, tuple(self.leads[c] for c in chosen) if self.leads else ())

    def identify(self, requests: Sequence[Request]) -> list[tuple[str, float]]:
        return [(str(sum(r.prompt) % EXPERTS), 0.5) for r in requests]


def forked_model(kind: str, seed: int = 0) -> LanguageModel:
    """Routed by "weights", by soft prompts in front ("leads"), or by "both"."""
    model = lively_model(seed)
    leads: list[Sequence[int]] = []
    if kind != "weights":
        torch.manual_seed(seed)
        prompts = prompted(model, [2, 3])
        leads = [prompts.ids(0), (), [*prompts.ids(1), *prompts.ids(0)]]
    router = BySum(kind != "leads", leads)
    if router.weighs:
        torch.manual_seed(seed)
        for layer in model.module.model.layers:  # type: ignore[operator,union-attr]
            layer.mlp.up_proj = Forked(layer.mlp.up_proj, router.switch)
    model.router = router
    return model
