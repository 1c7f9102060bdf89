"""TRL's own trainers with our methods: equal to our loop where both can do it, and right in what they are given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from everlearn.data.preferences import pair, verdict
from everlearn.errors import ConfigError, DataError, MethodError
from everlearn.examples import Batch, Example, Plan
from everlearn.integrations.lesson import Lesson
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.distillation import LwF
from everlearn.methods.importance import SI
from everlearn.methods.projection import AGEM
from everlearn.methods.rehearsal import LAMOL
from everlearn.methods.replay import Replay
from everlearn.methods.subspaces import GPM, OGD
from everlearn.methods.task_vectors import MagMax
from everlearn.metrics.likelihood import TokenAccuracy
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import adapters
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.peft_format import load_peft, save_peft
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.preference import Preference
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Experience, Memory, Model, State

trl = pytest.importorskip("trl", reason="needs trl: pip install 'everlearn[trl]'.")
peft = pytest.importorskip("peft", reason="needs peft: pip install 'everlearn[trl]'.")

from everlearn.integrations.trl import ContinualDPO, ContinualGRPO, ContinualSFT  # noqa: E402

RATE = 1e-3
RECIPE = Recipe(AdamW(RATE), Schedule("constant", warmup=0), batch_size=4, length=64, tokens=64)
LETTERS, CATS, DIGITS = toy_stream()


@dataclass(frozen=True)
class InOrder:
    """Next-token prediction on examples in the order in which they stand, as a sequential sampler has them."""

    references: ClassVar[dict[str, float]] = {}

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Any:
        return NextToken(packed=False).steps(model, examples, replace(plan, seed=None))

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return NextToken().loss(model, batch)


def settings(kind: Any, folder: Path, **more: Any) -> Any:
    fixed = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "bf16": False}
    steps = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    rates = {"learning_rate": RATE, "lr_scheduler_type": "constant"}
    return kind(str(folder), **(fixed | steps | rates | more))


def taught(trainer: Any) -> State:
    trainer.train()
    state: State = trainer.learned()
    return state


CHAINS = {
    "plain": chain(),
    "replay, EWC, a projection": chain(Replay(fraction=0.5), EWC(strength=1000.0), OGD()),
    "the batch, the path, the gradient": chain(LwF(), SI(strength=10.0), AGEM()),
    "adapters": chain(LoRA(rank=2), Replay(fraction=0.5), EWC(strength=10.0), GPM()),
    "start and merge": chain(Replay(fraction=0.5), MagMax()),
}


@pytest.mark.parametrize("method", CHAINS.values(), ids=CHAINS)
def test_sft_ends_where_our_own_loop_ends(method: Method, tmp_path: Path) -> None:
    """In fp32, without dropout, over the same batches: two passes of two rows are a step, as is one batch of ours."""
    experiences = [replace(e, objective=InOrder()) for e in (LETTERS, CATS)]
    learner = Learner("toy", method, RECIPE)
    model = toy_model(dtype=torch.float32)
    ours = learner.start(model)
    for experience in experiences:
        ours = learn(learner, model, ours, experience)
    model = toy_model(dtype=torch.float32)
    theirs = learner.start(model)
    for experience in experiences:
        given = settings(trl.SFTConfig, tmp_path, train_sampling_strategy="sequential")
        theirs = taught(ContinualSFT(Lesson(learner, model, theirs, experience), args=given))
    assert (set(theirs.weights), theirs.seen) == (set(ours.weights), ("letters", "cats"))
    for name, weight in ours.weights.items():
        torch.testing.assert_close(theirs.weights[name], weight, rtol=0.0, atol=1e-5)


@dataclass(frozen=True)
class Listener(Method):
    """Keeps the batches that its term is asked about, and what each step was."""

    def init(self, model: LanguageModel) -> Memory:
        return {"batches": [], "moved": []}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        memory["batches"].append(batch)  # against the rules, which a test may break
        return 0.0

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        return memory | {"moved": [*memory["moved"], max(float(u.abs().max()) for u in update.values())]}


def lesson(method: Method, experience: Experience = LETTERS, model: LanguageModel | None = None) -> Lesson:
    model = model or toy_model(dtype=torch.float32)
    learner = Learner("toy", method, RECIPE)
    return Lesson(learner, model, learner.start(model), experience)


def said(model: LanguageModel, batch: Batch) -> list[tuple[str, str]]:
    """For each row the prompt's text and that of the targets, as the toy's tokenizer spells them."""
    found = []
    for tokens, there, targets in zip(batch.tokens, batch.segments > 0, batch.supervised, strict=True):
        rest = there & ~targets
        found.append((model.tokenizer.decode(tokens[rest]), model.tokenizer.decode(tokens[targets])))
    return found


def test_sft_supervises_what_our_own_loop_supervises(tmp_path: Path) -> None:
    trainer = ContinualSFT(lesson(Listener()), args=settings(trl.SFTConfig, tmp_path))
    memory = taught(trainer).memory[0]
    rows = [row for batch in memory["batches"] for row in said(trainer.lesson.model, batch)]
    asked = [(f"<|user|>{e.prompt[0].content}<|end|><|assistant|>", f"{e.response}<|end|>") for e in LETTERS.train]
    assert sorted(rows) == sorted(asked)
    assert {e.key for batch in memory["batches"] for e in batch.examples} == {e.key for e in LETTERS.train}
    assert all(moved > 0 for moved in memory["moved"])


def test_packed_rows_are_told_apart_and_cut_ones_refused(tmp_path: Path) -> None:
    packed = {"packing": True, "max_length": 64, "per_device_train_batch_size": 1}
    given = settings(trl.SFTConfig, tmp_path, packing_strategy="bfd", **packed)
    trainer = ContinualSFT(lesson(Listener()), args=given)
    batches = taught(trainer).memory[0]["batches"]
    assert [len(batch.tokens) for batch in batches] == [4, 4, 4]
    assert {e.key for batch in batches for e in batch.examples} == {e.key for e in LETTERS.train}
    for method in (Listener(), chain()):
        given = settings(trl.SFTConfig, tmp_path, packing_strategy="wrapped", **packed)
        with pytest.raises(ConfigError, match=r'"wrapped"\) cuts rows where a pack is full.*take "bfd"'):
            ContinualSFT(lesson(method), args=given)


PREFERENCES = replace(
    LETTERS,
    train=[pair(e.prompt, e.response, a.response, {}) for e, a in pairwise(LETTERS.train) if e.response != a.response],
    objective=Preference(),
)


def test_dpo_supervises_both_answers_and_refers_to_the_last_version(tmp_path: Path) -> None:
    trainer = ContinualDPO(lesson(Listener(), PREFERENCES), args=settings(trl.DPOConfig, tmp_path))
    began = {n: p.detach().clone() for n, p in trainer.lesson.parameters.items()}
    memory = taught(trainer).memory[0]
    rows = [row for batch in memory["batches"] for row in said(trainer.lesson.model, batch)]
    asked = [
        (f"<|user|>{e.prompt[0].content}<|end|><|assistant|>", f"{answer}<|end|>")
        for e in PREFERENCES.train
        for answer in e.choices
    ]
    assert sorted(rows) == sorted(asked)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert all(torch.equal(p, began[n]) for n, p in trainer.ref_model.named_parameters())
    assert not losses or losses[0] == pytest.approx(0.693, abs=1e-2)


def test_dpo_begins_at_the_logarithm_of_two_in_every_experience(tmp_path: Path) -> None:
    """The reference is the version before; were it the base model, the second experience would begin elsewhere."""
    method = chain(LoRA(rank=2), EWC(strength=10.0), OGD())
    learner, model = Learner("toy", method, RECIPE), toy_model(dtype=torch.float32)
    state = learner.start(model)
    for experience in (PREFERENCES, replace(PREFERENCES, name="again")):
        for precompute in (True, False):
            given = settings(
                trl.DPOConfig, tmp_path, logging_steps=1, learning_rate=1e-2, precompute_ref_log_probs=precompute
            )
            trainer = ContinualDPO(Lesson(learner, model, state, experience), args=given)
        found = taught(trainer)
        first = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
        assert float(first) == pytest.approx(0.6931, abs=2e-4)
        assert any(not torch.equal(w, state.weights.get(n, torch.zeros_like(w))) for n, w in found.weights.items())
        state = found
    assert state.seen == ("letters", "again")


def test_dpo_refuses_what_it_would_cut_and_what_is_no_pair(tmp_path: Path) -> None:
    longest = max(len(lesson(chain()).model.encode(e).tokens) for e in PREFERENCES.train)
    ContinualDPO(lesson(chain(), PREFERENCES), args=settings(trl.DPOConfig, tmp_path, max_length=longest))
    with pytest.raises(ConfigError, match=rf"DPOConfig\(max_length={longest - 1}\) would cut it"):
        ContinualDPO(lesson(chain(), PREFERENCES), args=settings(trl.DPOConfig, tmp_path, max_length=longest - 1))
    (example, *_) = PREFERENCES.train
    for other, says in (
        (verdict(example.prompt, "a", True, {}), "is one judged answer, and DPO compares two"),
        (replace(example, choices=()), "is no preference"),
    ):
        mixed = replace(PREFERENCES, train=[example, other])
        with pytest.raises(DataError, match=says):
            ContinualDPO(lesson(chain(), mixed), args=settings(trl.DPOConfig, tmp_path))


@dataclass(frozen=True)
class Still(Method):
    """Nothing moves: the optimiser gets no gradient, or its update is taken back."""

    side: str

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        return {n: torch.zeros_like(g) for n, g in grads.items()} if self.side == "grad" else grads

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        return {n: torch.zeros_like(u) for n, u in update.items()} if self.side == "update" else update


@dataclass(frozen=True)
class Pull(Method):
    """A term that outweighs every other: its gradient is 1000 everywhere."""

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor:
        return torch.stack([1000.0 * p.sum() for p in ctx.trainable().values()]).sum()


def trainer_of(kind: str, method: Method, folder: Path) -> Any:
    """A trainer of one step, on the toy's letters."""
    if kind == "SFT":
        return ContinualSFT(lesson(method), args=settings(trl.SFTConfig, folder, max_steps=1))
    if kind == "DPO":
        return ContinualDPO(lesson(method, PREFERENCES), args=settings(trl.DPOConfig, folder, max_steps=1))
    four = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 3, "max_steps": 1}
    return ContinualGRPO(
        lesson(method, replace(LETTERS, metric=_EndsEarly())), args=settings(trl.GRPOConfig, folder, **four)
    )


@pytest.mark.parametrize("kind", ["SFT", "DPO", "GRPO"])
@pytest.mark.parametrize(("method", "way"), [(Still("grad"), 0.0), (Still("update"), 0.0), (Pull(), -RATE)])
def test_every_trainer_serves_term_gradient_and_update(kind: str, method: Method, way: float, tmp_path: Path) -> None:
    """Adam's first step is the rate against the gradient's sign, wherever that is not zero."""
    trainer = trainer_of(kind, method, tmp_path)
    began = {n: p.detach().clone() for n, p in trainer.lesson.parameters.items()}
    for name, weight in taught(trainer).weights.items():
        torch.testing.assert_close(weight - began[name], torch.full_like(weight, way), rtol=0.0, atol=1e-6)


def test_grpo_rewards_by_the_metric_and_supervises_what_was_sampled(tmp_path: Path) -> None:
    easy = replace(LETTERS, metric=_EndsEarly())
    given = settings(
        trl.GRPOConfig, tmp_path, per_device_train_batch_size=4, num_generations=4, max_completion_length=3, max_steps=3
    )
    trainer = ContinualGRPO(lesson(chain(Listener(), EWC(), OGD()), easy), args=given)
    memory = taught(trainer).memory[0]
    rows = [row for batch in memory["batches"] for row in said(trainer.lesson.model, batch)]
    prompts = {f"<|user|>{e.prompt[0].content}<|end|><|assistant|>" for e in LETTERS.train}
    assert {prompt for prompt, _ in rows} <= prompts
    assert all(int(b.supervised.sum(1).min()) >= 1 and int(b.supervised.sum(1).max()) <= 3 for b in memory["batches"])
    assert len(memory["moved"]) == 3
    assert any(moved > 0 for moved in memory["moved"])
    rewards = [float(row["reward"]) for row in trainer.state.log_history if "reward" in row]
    assert all(0 <= reward <= 1 for reward in rewards)


@dataclass(frozen=True)
class _EndsEarly:
    """1 for an answer of an even number of characters: a toy's samples have some of both."""

    question = "generate"

    def score(self, example: Example, reply: Any) -> float:
        return float(len(reply.text) % 2 == 0)


def test_grpo_takes_rewards_and_refuses_a_metric_that_judges_no_text(tmp_path: Path) -> None:
    likelihood = replace(LETTERS, metric=TokenAccuracy())
    given = settings(trl.GRPOConfig, tmp_path, per_device_train_batch_size=4, num_generations=4)
    with pytest.raises(ConfigError, match="give reward_funcs"):
        ContinualGRPO(lesson(chain(), likelihood), args=given)

    def right(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
        return [float(said[-1]["content"] == a) for said, a in zip(completions, answer, strict=True)]

    trainer = ContinualGRPO(lesson(chain(), likelihood), args=given, reward_funcs=right)
    assert trainer.reward_funcs == [right]


def test_replayed_rows_are_in_the_trainers_data(tmp_path: Path) -> None:
    model, learner = toy_model(dtype=torch.float32), Learner("toy", Replay(fraction=0.5), RECIPE)
    state = taught(
        ContinualSFT(Lesson(learner, model, learner.start(model), CATS), args=settings(trl.SFTConfig, tmp_path))
    )
    trainer = ContinualSFT(Lesson(learner, model, state, DIGITS), args=settings(trl.SFTConfig, tmp_path))
    texts = [model.tokenizer.decode(row["input_ids"]) for row in trainer.train_dataset]
    assert any("cat sat" in text for text in texts)
    assert any("name 3 a" in text for text in texts)
    with pytest.raises(DataError, match="is a document, and has no prompt"):
        ContinualDPO(Lesson(learner, model, state, PREFERENCES), args=settings(trl.DPOConfig, tmp_path))


def test_rows_that_trl_would_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SFTConfig\(max_length=8\) would cut it"):
        ContinualSFT(lesson(chain()), args=settings(trl.SFTConfig, tmp_path, max_length=8))


def test_a_method_that_reads_examples_gets_them(tmp_path: Path) -> None:
    state = taught(ContinualSFT(lesson(LAMOL(limit=4)), args=settings(trl.SFTConfig, tmp_path)))
    plain = taught(ContinualSFT(lesson(chain()), args=settings(trl.SFTConfig, tmp_path)))
    assert any(not torch.equal(w, plain.weights[n]) for n, w in state.weights.items())


def test_peft_config_is_refused_with_a_way_out(tmp_path: Path) -> None:
    given = settings(trl.SFTConfig, tmp_path)
    with pytest.raises(ConfigError, match=r"Adapters are a method's \(`LoRA`\)"):
        ContinualSFT(lesson(chain()), args=given, peft_config=peft.LoraConfig())


def test_pefts_adapters_learn_with_our_methods_and_are_saved_by_peft(tmp_path: Path) -> None:
    base = toy_model(dtype=torch.float32)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(base.module, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    inside = LanguageModel(wrapped.get_base_model(), base.tokenizer, "toy")
    state = taught(ContinualSFT(lesson(chain(EWC(), OGD()), LETTERS, inside), args=settings(trl.SFTConfig, tmp_path)))
    assert all(".lora_" in name for name in state.weights)
    wrapped.save_pretrained(tmp_path / "adapter")
    fresh = toy_model(dtype=torch.float32)
    load_peft(fresh.module, tmp_path / "adapter")
    assert float(logits(inside.module).sub(logits(fresh.module)).abs().max()) < 1e-5
    assert float(logits(inside.module).sub(logits(toy_model(dtype=torch.float32).module)).abs().max()) > 1e-4


def test_our_adapters_after_training_are_loaded_by_peft(tmp_path: Path) -> None:
    ours = lesson(LoRA(rank=2))
    taught(ContinualSFT(ours, args=settings(trl.SFTConfig, tmp_path)))
    save_peft(ours.model.module, tmp_path / "adapter", "toy")
    theirs = peft.PeftModel.from_pretrained(toy_model(dtype=torch.float32).module, str(tmp_path / "adapter"))
    assert len(adapters(ours.model.module)) == 14
    assert float(logits(ours.model.module).sub(logits(theirs)).abs().max()) < 1e-5


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = module.eval()(torch.arange(6, 26)[None]).logits
    return found


def test_a_trainer_without_our_adapters_may_use_vllm_and_one_with_them_may_not(tmp_path: Path) -> None:
    trainer = ContinualSFT(lesson(LoRA(rank=2)), args=settings(trl.SFTConfig, tmp_path))
    trainer.args.use_vllm = True
    with pytest.raises(MethodError, match="vLLM, which cannot be sent the weights of our adapters"):
        trainer._require_served()
    plain = ContinualSFT(lesson(chain()), args=settings(trl.SFTConfig, tmp_path))
    plain.args.use_vllm = True
    plain._require_served()
