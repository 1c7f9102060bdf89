"""Rows about learning from rewards: a step of GRPO, drawing counted, and the memory that it takes."""

from typing import Any

from benchmarks import inputs, ours
from benchmarks.harness import ROUNDS, Finding, Goal, Spread, fresh, interleave, peer, ratios, require_same
from everlearn import LanguageModel

PROMPTS, LENGTH, SAMPLES, LIMIT = 8, 64, 8, 16
WORK = f"a step of GRPO, {PROMPTS} prompts of {LENGTH} x {SAMPLES} samples of {LIMIT} tokens"


def grpo(quick: bool = False) -> list[Finding]:
    """Draw, score and learn from 64 attempts, against TRL; each side's rewards are its own draws'."""
    trl = peer("trl_grpo")
    by = ours.learner(ours.GROUPS)
    model = by.open()
    examples = inputs.rows(model, ((LENGTH, 8),) * PROMPTS, 0)
    trainer = trl.trainer([e.prompt[0].content for e in examples], SAMPLES, LIMIT)
    theirs = trainer.processing_class.apply_chat_template(
        [{"role": "user", "content": examples[0].prompt[0].content}], add_generation_prompt=True, tokenize=False
    )
    tokens = trainer.processing_class(theirs, add_special_tokens=False).input_ids
    require_same("the prompts' tokens", list(model.encode_prompt(examples[0].prompt)), list(tokens))
    sides = {
        "ours": lambda: ours.attempted(by, model, examples, SAMPLES, LIMIT),
        "TRL": lambda: trl.train(trainer),
    }
    found = interleave(sides, 1 if quick else ROUNDS)
    require_same("steps", found["ours"][0].value["steps"], 1)
    drawn = {name: found[name][0].value["drawn"] for name in sides}
    seconds = {name: Spread(tuple(s.seconds for s in found[name])) for name in sides}
    return [
        Finding(
            WORK,
            "TRL GRPOTrainer, its defaults",
            Goal(2.0),
            ratios(found["TRL"], found["ours"]),
            f"{seconds['ours'].show(1)} s",
            f"{seconds['TRL'].show(1)} s",
            f"prompts' tokens; tokens drawn, mean {drawn['ours']:.1f} and {drawn['TRL']:.1f}",
        )
    ]


def memory(quick: bool = False) -> list[Finding]:
    """Peak memory of such a step, each side in fresh processes."""
    peer("trl_grpo")
    model = LanguageModel.open()
    prompts = [e.prompt[0].content for e in inputs.rows(model, ((LENGTH, 8),) * PROMPTS, 0)]
    peaks: dict[str, list[float]] = {"ours": [], "TRL": []}
    shape: list[Any] = [prompts, SAMPLES, LIMIT]
    for _ in range(1 if quick else ROUNDS):
        peaks["ours"].append(fresh("benchmarks.ours:attempt_once", shape)[1])
        peaks["TRL"].append(fresh("benchmarks.peers.trl_grpo:train_once", shape)[1])
    return [
        Finding(
            "the same: peak memory",
            "TRL GRPOTrainer, its defaults",
            Goal(0.7, least=False),
            Spread(tuple(a / b for a, b in zip(peaks["ours"], peaks["TRL"], strict=True))),
            f"{Spread(tuple(peaks['ours'])).show(0)} MB",
            f"{Spread(tuple(peaks['TRL'])).show(0)} MB",
            "fresh processes, loading counted; the same prompts, as many samples and tokens",
        )
    ]
