"""Rows about continual pre-training, all weights learning: packed rows, their memory, and latent replay."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import inputs, ours
from benchmarks.harness import ROUNDS, Finding, Goal, Sample, Spread, interleave, peer, ratios, require_same, speeds
from benchmarks.training import peaks, same_work
from everlearn import Example, LanguageModel, LatentReplay, Method, Replay, State, chain
from everlearn.examples import Plan
from everlearn.method import Context
from everlearn.models.layers import decoder_layers
from everlearn.models.optim import AdamW, Recipe

WORK = "packed pre-training, all weights, a step of 2 x 1024 tokens"

STILL = replace(ours.WHOLE, optimiser=AdamW(learning_rate=1e-6))
"""Leaves the model about as it is."""


def packed(quick: bool = False) -> list[Finding]:
    """Speed against TRL with packing on, where each document fills a row and a row is a pass on both sides.

    A row of several documents would be other work for TRL: without flash attention it lets them attend to each other.
    """
    trl_sft = peer("trl_sft")
    by = ours.pretrainer()
    model = by.open()
    rows = inputs.documents(model, ours.WHOLE.batch_size, ours.WHOLE.length, 0)
    encoded = [model.encode(e) for e in rows]
    trainer = trl_sft.pretrainer(trl_sft.as_rows(encoded))
    sides = {"ours": lambda: ours.side(by, model, rows), "TRL": lambda: trl_sft.train(trainer)}
    first = {name: side() for name, side in sides.items()}
    checked = same_work(first, trl_sft.content(trainer), encoded)
    found = {name: [s] for name, s in first.items()} if quick else interleave(sides, warm=0)
    tokens = sum(len(e.tokens) for e in encoded)
    return [
        Finding(
            f"{WORK}: tokens/s/core",
            "TRL SFTTrainer, packing on, its defaults",
            Goal(1.6),
            ratios(found["TRL"], found["ours"]),
            f"{speeds(tokens, found['ours']).show(0)} tokens/s, activations kept",
            f"{speeds(tokens, found['TRL']).show(0)} tokens/s, computed again",
            f"{checked}; each document is a row, each row a pass; "
            f"{_precision(model)} here, {'bf16 autocast' if trainer.args.bf16 else 'float32'} there",
        )
    ]


def memory(quick: bool = False) -> list[Finding]:
    """Peak memory of a step, each side in fresh processes: as timed, and computing activations again as TRL does."""
    model = LanguageModel.open()
    documents = inputs.documents(model, ours.WHOLE.batch_size, ours.WHOLE.length, 0)
    rows = peer("trl_sft").as_rows([model.encode(e) for e in documents])
    ways = {
        f"{WORK}: peak memory, {way}": ("benchmarks.ours:pretrain_once", checkpointing)
        for way, checkpointing in (("activations kept here", False), ("activations computed again on both sides", True))
    }
    return peaks(ways, ("trl_sft:pretrain_once", rows), Goal(0.7, least=False), quick)


def latent(quick: bool = False) -> list[Finding]:
    """Latent replay with its cut at half depth beside replay of the texts: one replayed document for each new one.

    The goal is for what the replayed document adds to a step of the new one alone: since the new one is read whole on
    both sides, no cut can take as much from the step as a whole.
    """
    model = LanguageModel.open()
    half = len(decoder_layers(model.module)) // 2
    alone, both = (replace(STILL, batch_size=rows) for rows in (1, 2))
    methods: dict[str, tuple[Method, Recipe]] = {
        "plain": (chain(), alone),
        "Replay": (Replay(fraction=0.5), both),
        "LatentReplay": (LatentReplay(below=half, fraction=0.5), alone),
    }  # texts stand among a step's rows, states beside them
    count = 2 if quick else 4
    old, new = (inputs.documents(model, count, STILL.length, seed) for seed in (1, 2))
    sides = {name: partial(replaying, model, *given, old, new) for name, given in methods.items()}
    found = interleave(sides, 1 if quick else ROUNDS, warm=0)
    seen = {name: samples[0].value for name, samples in found.items()}
    require_same("steps and tokens", seen["Replay"], (count, 2 * seen["plain"][1]))
    require_same("steps and new tokens", seen["LatentReplay"], seen["plain"])
    return _beside(found, kept_share(model, half, STILL.length))


def replaying(
    model: LanguageModel, method: Method, recipe: Recipe, old: Sequence[Example], new: Sequence[Example]
) -> Sample:
    """A median step over the new examples by a method that has kept the old; the value is steps, tokens as text."""
    by = replace(ours.pretrainer(), method=chain(method), recipe=recipe)
    context = Context(model, inputs.lesson("old", old), Plan(recipe.batch_size, recipe.tokens, recipe.length))
    state = State(memory=by.method.end(by.method.init(model), context), seen=("old",))
    done = ours.study(by, model, state, new, "new")
    return Sample(ours.typical(done.steps), (len(done.steps), done.tokens))


def kept_share(model: LanguageModel, below: int, length: int) -> float:
    """What a document costs from the cut up, over what it costs whole, if time is proportional to useful FLOP.

    With P weights in the matrices of the layers, H in the head, L layers of width D, T tokens, all of them targets: a
    document is 6 (P + H) T + 6 L T^2 D FLOP forward and backward, and above the cut P and L are those of the upper
    layers. The embedded model, cut at half depth, 1024 tokens: 0.59.
    """
    config: Any = model.module.config
    layers = decoder_layers(model.module)
    attention, head = length * config.hidden_size, config.vocab_size * config.hidden_size
    costs = [sum(p.numel() for p in layer.parameters() if p.ndim == 2) + attention for layer in layers]
    return float((sum(costs[below:]) + head) / (sum(costs) + head))


def _beside(found: dict[str, list[Sample]], share: float) -> list[Finding]:
    plain, whole, cut = (found[name] for name in ("plain", "Replay", "LatentReplay"))
    added = [
        [Sample(side.seconds - alone.seconds) for side, alone in zip(samples, plain, strict=True)]
        for samples in (cut, whole)
    ]
    work = f"latent replay at half depth, 1 new and 1 replayed document of {STILL.length} tokens a step, all weights: "
    checked = f"same new documents, one replayed in each step; the arithmetic allows {share:.2f}"
    return [
        Finding(
            f"{work}what the replayed one adds",
            "own Replay",
            Goal(0.6, least=False),
            ratios(*added),
            f"{_seconds(added[0])} s",
            f"{_seconds(added[1])} s",
            f"{checked}; a step without replay is {_seconds(plain)} s",
        ),
        Finding(
            f"{work}time of a step",
            "own Replay",
            None,
            ratios(cut, whole),
            f"{_seconds(cut)} s",
            f"{_seconds(whole)} s",
            f"{checked.rpartition(' ')[0]} {(1 + share) / 2:.2f}",
        ),
    ]


def _precision(model: LanguageModel) -> str:
    return str(next(iter(model.parameters().values())).dtype).removeprefix("torch.")


def _seconds(samples: Sequence[Sample]) -> str:
    return Spread(tuple(s.seconds for s in samples)).show()
