"""Rows about training: speed, memory, arithmetic, gradients, and layers that are computed once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from benchmarks import inputs, ours
from benchmarks.harness import (
    ROUNDS,
    DifferentError,
    Finding,
    Goal,
    Sample,
    Spread,
    clock,
    fresh,
    interleave,
    peer,
    ratios,
    require_same,
    speeds,
)
from everlearn import Freeze, LanguageModel
from everlearn.models.layers import decoder_layers
from everlearn.models.optim import Recipe

SHORT = Recipe(ours.LONG.optimiser, batch_size=32, length=512, tokens=2048)
"""32 demonstrations in a step."""

GEMM = 2048
"""Width of the square matrices whose product is the peak."""


def fine_tuning(quick: bool = False) -> list[Finding]:
    """2 x 512 tokens, half of them masked: speed against TRL, and the part of the arithmetic peak that we reach."""
    trl_sft = peer("trl_sft")
    by = ours.learner(ours.LONG)
    model = by.open()
    examples = inputs.rows(model, ours.SIZES, 0)
    encoded = [model.encode(e) for e in examples]
    trainer = trl_sft.trainer(trl_sft.as_rows(encoded), batch_size=2)
    sides = {"ours": lambda: ours.side(by, model, examples), "TRL": lambda: trl_sft.train(trainer), "GEMM": gemm_peak}
    first = {name: side() for name, side in sides.items()}  # both adapters are still zero, so the losses are the same
    checked = same_work(first, trl_sft.content(trainer), encoded)
    found = interleave(sides, 1 if quick else ROUNDS, warm=0)
    tokens, steps = sum(len(e.tokens) for e in encoded), len(found["ours"][0].value.steps)
    rates = {name: speeds(tokens, found[name]) for name in ("ours", "TRL")}
    peak = Spread(tuple(s.value / s.seconds for s in found["GEMM"]))
    useful = useful_flops(model, rows=2, length=512, supervised=512) * steps
    reached = [useful / a.seconds / (b.value / b.seconds) for a, b in zip(found["ours"], found["GEMM"], strict=True)]
    work = "fine-tuning, 2 x 512 tokens, half masked: "
    return [
        Finding(
            f"{work}tokens/s/core",
            "TRL SFTTrainer, its defaults",
            Goal(2.4),
            ratios(found["TRL"], found["ours"]),
            f"{rates['ours'].show(0)} tokens/s",
            f"{rates['TRL'].show(0)} tokens/s",
            checked,
        ),
        Finding(
            f"{work}FLOP utilisation",
            "the measured bf16 GEMM peak",
            Goal(0.58),
            Spread(tuple(reached)),
            f"{useful / steps / 1e9:.0f} GFLOP a step",
            f"{peak.middle / 1e9:.0f} GFLOP/s, {GEMM}^3",
            "useful FLOP alone: see `useful_flops`",
        ),
    ]


def memory(quick: bool = False) -> list[Finding]:
    """Peak memory of two steps of 2 x 512 tokens, each side in fresh processes."""
    model = LanguageModel.open()
    encoded = [model.encode(e) for e in inputs.rows(model, ours.SIZES, 0)]
    rows = [{"input_ids": list(e.tokens), "labels": _labels(e)} for e in encoded]
    ways = {"the same: peak memory": ("benchmarks.ours:train_long",)}
    return peaks(ways, ("trl_sft:train_long", rows), Goal(0.6, least=False), quick)


def peaks(ways: Mapping[str, Sequence[Any]], theirs: Sequence[Any], goal: Goal, quick: bool) -> list[Finding]:
    """Peak memory of functions of the same loss, each in fresh processes.

    Args:
        ways: by what is done, ours as "module:function" and its arguments; it gives the losses of its steps.
        theirs: the same of a module of `benchmarks.peers`; it gives the mean loss.
        goal: of each ratio.
        quick: whether once is enough.
    """
    found: dict[str, list[tuple[float, float]]] = {work: [] for work in ways}
    for _ in range(1 if quick else ROUNDS):
        loss, other = fresh(f"benchmarks.peers.{theirs[0]}", theirs[1:])
        for work, mine in ways.items():
            values, peak = fresh(mine[0], mine[1:])
            close(sum(values) / len(values), loss)
            found[work].append((peak, other))
    return [
        Finding(
            work,
            "TRL SFTTrainer, its defaults",
            goal,
            Spread(tuple(a / b for a, b in pairs)),
            f"{Spread(tuple(a for a, _ in pairs)).show(0)} MB",
            f"{Spread(tuple(b for _, b in pairs)).show(0)} MB",
            "fresh processes, loading counted; same rows, steps and loss",
        )
        for work, pairs in found.items()
    ]


def instructions(quick: bool = False) -> list[Finding]:
    """Demonstrations of 127 tokens in the mean, a tenth of them targets, against TRL with packing on.

    TRL packs them into rows of its default length, one row a pass, which is its fastest setting on a processor: more
    rows are flattened into one, and its attention grows with the square.
    """
    trl_sft = peer("trl_sft")
    by = ours.learner(SHORT)
    model = by.open()
    examples = inputs.rows(model, inputs.instruction_sizes(SHORT.batch_size, 0), 0)
    encoded = [model.encode(e) for e in examples]
    packed = len(trl_sft.trainer(trl_sft.as_rows(encoded), 1, packing=True).train_dataset)
    trainer = trl_sft.trainer(trl_sft.as_rows(encoded), 1, accumulation=packed, packing=True)
    sides = {"ours": lambda: ours.side(by, model, examples), "TRL": lambda: trl_sft.train(trainer)}
    first = {name: side() for name, side in sides.items()}
    checked = same_work(first, trl_sft.content(trainer), encoded)
    found = interleave(sides, 1 if quick else ROUNDS, warm=0)
    tokens = sum(len(e.tokens) for e in encoded)
    return [
        Finding(
            f"instruction rows, mean {tokens / len(encoded):.0f} tokens, answers 10 %: real tokens/s/core",
            f"TRL SFTTrainer, packing on ({packed} packed rows a step)",
            Goal(2.5),
            ratios(found["TRL"], found["ours"]),
            f"{speeds(tokens, found['ours']).show(0)} tokens/s",
            f"{speeds(tokens, found['TRL']).show(0)} tokens/s",
            checked,
        )
    ]


def gradient(quick: bool = False) -> list[Finding]:
    """Our gradient of a young adapter beside plain fp32 autograd's, tensor by tensor."""
    model = LanguageModel.open()
    examples = inputs.rows(model, ours.SIZES[:2], 1)
    state = ours.adapter(model, inputs.rows(model, ours.SIZES * (1 if quick else 2), 2))
    exact = ours.learner(ours.LONG, dtype="float32")
    reference = exact.restore(exact.open(), state)
    mine, theirs = ours.grads(model, examples), _plain_grads(reference, examples)
    require_same("names of what learns", sorted(mine), sorted(theirs))
    cosines = _cosines(mine, theirs)
    worst = min(cosines, key=cosines.__getitem__)
    whole = _cosines({"": _flat(mine)}, {"": _flat(theirs)})[""]
    _round_frozen(reference)
    rounded = _plain_grads(reference, examples)
    ceiling, computed = (min(_cosines(a, b).values()) for a, b in ((rounded, theirs), (mine, rounded)))
    return [
        Finding(
            "gradient, cosine to fp32 autograd, worst tensor",
            "plain cross-entropy on fp32 logits",
            Goal(0.995),
            Spread((cosines[worst],)),
            f"worst: {worst.removeprefix('model.layers.')}",
            f"{len(cosines)} tensors; whole {whole:.5f}",
            "same adapter and tokens; of the worst, the rounding of frozen weights to bf16 alone gives "
            f"{ceiling:.4f}, and our computing beside fp32 on the same rounded weights {computed:.4f}",
            digits=4,
        )
    ]


def frozen_half(quick: bool = False) -> list[Finding]:
    """The top half of the layers trained: the second epoch reads what the first computed below."""
    model = LanguageModel.open()
    half = int(model.module.config.num_hidden_layers) // 2  # type: ignore[union-attr, arg-type]
    by = ours.learner(replace(ours.LONG, epochs=2), Freeze(below=half))
    spread, seconds = [], []
    for number in range(1 if quick else ROUNDS + 1):
        live = by.open()
        done = ours.study(by, live, by.start(live), inputs.rows(model, ours.SIZES * 2, 10 + number))
        each = len(done.steps) // 2
        first, second = done.steps[:each], done.steps[each:]
        spread.append(ours.typical(first) / ours.typical(second))
        seconds.append((ours.typical(first), ours.typical(second)))
    spread = spread[1:] or spread
    return [
        Finding(
            "top half of the layers trained, second epoch",
            "own first epoch",
            Goal(1.8),
            Spread(tuple(spread)),
            f"{seconds[-1][1]:.2f} s a step",
            f"{seconds[-1][0]:.2f} s a step",
            f"layers below {half} frozen; same rows in both epochs, other rows each time; "
            f"the arithmetic allows {kept_ceiling(live, half, 2, 512, 512):.2f}",
        )
    ]


def gemm_peak() -> Sample:
    """Sixteen products of square bf16 matrices; the value is their FLOP."""
    a, b = (torch.ones(GEMM, GEMM, dtype=torch.bfloat16) for _ in range(2))
    start = clock()
    for _ in range(16):
        a @ b
    return Sample(clock() - start, 16 * 2 * GEMM**3)


def useful_flops(model: LanguageModel, rows: int, length: int, supervised: int) -> float:
    """FLOP that a step of LoRA on all linears cannot do without; what is computed twice or masked counts once or never.

    With P frozen and R adapter weights in the linears, H in the head, N tokens, S targets:
        linears     2 P N forward, 2 P N for the gradient of their inputs (none for frozen weights)
        adapters    2 R N forward, 4 R N backward
        head        2 H S forward, 2 H S backward: at targets alone
        attention   two products forward, four backward, of T x T x D for each layer and row, of which a causal mask
                    leaves half: 6 L B T^2 D FLOP
    The embedded model at 2 x 512 tokens with 512 targets: 435 + 30 + 58 + 54 = 577 GFLOP.
    """
    config: Any = model.module.config
    tokens = rows * length
    adapters = sum(p.numel() for p in model.trainable().values())
    frozen = sum(p.numel() for n, p in model.parameters().items() if n.endswith(".base.weight"))
    head = config.vocab_size * config.hidden_size
    attention = 6 * config.num_hidden_layers * rows * length**2 * config.hidden_size
    return float(4 * frozen * tokens + 6 * adapters * tokens + 4 * head * supervised + attention)


def kept_ceiling(model: LanguageModel, frozen: int, rows: int, length: int, supervised: int) -> float:
    """By how much a step is shorter whose lower layers were computed before, if time is proportional to useful FLOP.

    The names are those of `useful_flops`. The lower layers cost 2 P N and a third of their attention, since they have
    no backward pass; all else costs what it costs there. The embedded model, half of its layers frozen, 2 x 512 tokens
    with 512 targets: (117 + 317) / 317 = 1.37.
    """
    config: Any = model.module.config
    layers = decoder_layers(model.module)
    attention = 2 * rows * length**2 * config.hidden_size * config.num_hidden_layers
    weights = sum(p.numel() for layer in layers[:frozen] for p in layer.parameters() if p.ndim == 2)
    below = 2 * weights * rows * length + attention * frozen / len(layers)
    above = useful_flops(model, rows, length, supervised) - 3 * attention * frozen / len(layers)
    return (below + above) / above


def same_work(first: Mapping[str, Sample], content: tuple[int, int], encoded: Any) -> str:
    """Make sure that both sides passed over the same tokens in as many steps, and from the same loss."""
    mine, theirs = first["ours"].value, first["TRL"].value
    targets = sum(sum(e.supervised) for e in encoded)
    require_same("tokens and targets", (mine.tokens, targets), content)
    require_same("optimiser steps", len(mine.steps), theirs["steps"])
    close(mine.loss, theirs["loss"])
    return f"tokens, targets, {len(mine.steps)} steps; loss {mine.loss:.3f}, {theirs['loss']:.3f}"


def close(a: float, b: float) -> None:
    """Make sure that two losses are those of the same work."""
    if not math.isclose(a, b, rel_tol=0.02):
        raise DifferentError(f"the sides learn different things: loss {a} here, {b} there")


def _labels(encoded: Any) -> list[int]:
    return [t if s else -100 for t, s in zip(encoded.tokens, encoded.supervised, strict=True)]


def _plain_grads(model: LanguageModel, examples: Any) -> dict[str, torch.Tensor]:
    """Cross-entropy over all logits, as any tutorial has it."""
    encoded = [model.encode(e) for e in examples]
    tokens = torch.tensor([e.tokens for e in encoded])
    labels = torch.tensor([_labels(e) for e in encoded])
    logits = model.module(input_ids=tokens, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    parameters = model.trainable()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def _cosines(mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """By name; summed in float64, since a float32 sum over millions of numbers goes beyond 1."""
    pairs = {name: (mine[name].flatten().double(), g.flatten().double()) for name, g in theirs.items()}
    return {name: float(cosine_similarity(a, b, dim=0)) for name, (a, b) in pairs.items()}


def _round_frozen(model: LanguageModel) -> None:
    """Give what is frozen the values that a bf16 model has."""
    with torch.no_grad():
        for parameter in model.parameters().values():
            if not parameter.requires_grad:
                parameter.copy_(parameter.bfloat16())


def _flat(grads: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([grads[name].flatten() for name in sorted(grads)])
