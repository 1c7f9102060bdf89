"""Selective language modelling: the choice by hand, over the whole step, without gradient, in any number of passes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.config import dump as plain
from everlearn.config import parse, restore, show
from everlearn.data.mixes import Mix, Phase
from everlearn.data.shares import halves
from everlearn.errors import ConfigError, Interrupted, ModelError
from everlearn.examples import Batch, Encoded, Example, Plan, Step
from everlearn.learner import Learner, learn
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.distillation import LwF
from everlearn.methods.replay import Replay
from everlearn.models.optim import AdamW, Recipe
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.selective import Selective, live_losses, top
from everlearn.testing.toys import question, toy_folder, toy_model, toy_stream
from everlearn.types import Experience, State
from everlearn.watch import Watch
from everlearn.weights import equal

DOCUMENTS = [Example(text=t) for t in ("the cat sat.", "a dog", "on the mat, again and again.", "no", "yes, it is so")]
RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=3, length=24, tokens=24)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(toy_folder(tmp_path_factory.mktemp("reference") / "toy", seed=1))


@dataclass(frozen=True)
class Spoken:
    """A model whose log-probabilities of six tokens, three in each of two rows, are given."""

    logprobs: Tensor
    packs: bool = True

    def encode(self, example: Example) -> Encoded:
        return Encoded((), ())

    def trainable(self) -> dict[str, Tensor]:
        return {"logprobs": self.logprobs}

    def token_logprobs(self, batch: Batch, targets: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        return self.logprobs[batch.supervised]


def six(values: dict[str, Sequence[Sequence[float]]]) -> Batch:
    """Two rows of four tokens, the first of each no target."""
    tokens = torch.arange(8).view(2, 4)
    given = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in values.items()}
    return Batch(tokens, tokens % 4, torch.ones_like(tokens), tokens % 4 > 0, values=given)


def made(reference: str, folder: Path, **fields: Any) -> Selective:
    return Selective(reference, folder=str(folder), **fields)


def steps(objective: Any, examples: Sequence[Example] = DOCUMENTS, **plan: Any) -> list[Step]:
    return list(objective.steps(toy_model(), examples, Plan(**({"batch_size": 8, "length": 24} | plan))))


def value(objective: Any, step: Step) -> tuple[float, dict[str, Tensor]]:
    """A step's loss and gradient, batch by batch as the learner has them."""
    model, total = toy_model(), 0.0
    for batch in step.batches:
        part = objective.loss(model, batch) * (batch.weight / step.weight)
        part.backward()
        total += part.item()
    return total, {name: p.grad for name, p in model.trainable().items() if p.grad is not None}


def require_same(one: tuple[float, dict[str, Tensor]], two: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(two[0], abs=1e-12)
    assert one[1].keys() == two[1].keys()
    for name, grad in one[1].items():
        torch.testing.assert_close(grad, two[1][name], rtol=0, atol=1e-12)


def test_six_tokens_by_hand() -> None:
    # Live losses 3 1 2 | 5 4 1, the reference's 1 0.5 0 | 5.5 4 3: excess 2 0.5 2 | -0.5 0 -2. Half of six is three,
    # the whole first row: a choice row by row would have taken tokens of the second. Their mean is (3 + 1 + 2) / 3.
    logprobs = torch.tensor([[0.0, -3, -1, -2], [0, -5, -4, -1]], dtype=torch.float64, requires_grad=True)
    batch = six({"reference": [[9, 1, 0.5, 0], [9, 5.5, 4, 3]]})
    loss = Selective("any", share=0.5).loss(Spoken(logprobs), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 2.0
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0, -1, -1, -1], [0, 0, 0, 0]]).double() / 3)


def test_a_part_of_a_step_has_its_part_of_the_mean() -> None:
    # Two of six are chosen, so that each weighs 6 / 2 = 3. By rows: 3 / 3 * 3 = 3 and 3 * 4 / 3 = 4, each of weight
    # 1 / 2: (3 + 4) / 2, the mean over both.
    batch, logprobs = six({"chosen": [[0, 3, 0, 0], [0, 0, 3, 0]]}), -torch.tensor([[0.0, 3, 1, 2], [0, 5, 4, 1]])
    objective = Selective("any", share=1 / 3)
    assert float(objective.loss(Spoken(logprobs), batch)) == 3.5
    none = replace(batch, supervised=batch.supervised & (torch.arange(4) == 3), values={"chosen": torch.zeros(2, 4)})
    alone = [Spoken(logprobs[row : row + 1]) for row in (0, 1)]
    assert [float(objective.loss(m, b)) for m, b in zip(alone, halves(batch), strict=True)] == [3.0, 4.0]
    assert float(objective.loss(Spoken(logprobs), none)) == 0.0


def test_of_equal_scores_the_earlier_is_chosen_and_one_at_least() -> None:
    assert top(torch.tensor([1.0, 2, 2, 2]), 0.5).tolist() == [False, True, True, False]
    assert top(torch.tensor([1.0, 3, 2]), 0.01).tolist() == [False, True, False]
    assert top(torch.tensor([0.0, 1, 2, 3, 4]), 0.6).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("examples", [DOCUMENTS, [question("after a?", "bcd"), question("say", "a long answer")]])
def test_a_share_of_one_is_plain_to_the_bit(examples: list[Example], reference: str, tmp_path: Path) -> None:
    objective = made(reference, tmp_path, share=1.0)
    (ours,), (theirs,) = steps(objective, examples, length=48), steps(NextToken(), examples, length=48)
    one, two = value(objective, ours), value(NextToken(), theirs)
    assert one[0] == two[0]
    assert equal(one[1], two[1])
    assert not list(tmp_path.iterdir())  # nobody asked the reference


def test_all_weighing_alike_is_plain_to_the_bit() -> None:
    (step,) = steps(NextToken())
    (batch,) = step.batches
    weighed = replace(batch, values={"chosen": batch.supervised.double()})
    assert equal(value(Selective("any"), replace(step, batches=(weighed,)))[1], value(NextToken(), step)[1])


def test_any_number_of_passes_learns_from_the_same_tokens(reference: str, tmp_path: Path) -> None:
    objective = made(reference, tmp_path, share=0.4)
    (one,), (many,) = steps(objective, tokens=4096), steps(objective, tokens=1)
    assert (len(one.batches), len(many.batches)) == (1, 3)
    assert "reference" in one.batches[0].values
    assert "chosen" in many.batches[0].values
    require_same(value(objective, one), value(objective, many))
    shares = [float((b.values["chosen"] > 0).sum() / b.supervised.sum()) for b in many.batches]
    assert len(set(shares)) > 1  # over the step, and not for each row by itself
    assert sum(int((b.values["chosen"] > 0).sum()) for b in many.batches) == round(0.4 * many.weight)


def test_the_choice_does_not_depend_on_padding_or_packing(reference: str, tmp_path: Path) -> None:
    packed, alone = (made(reference, tmp_path, share=0.5, packed=kind) for kind in (True, False))
    (together,), (apart,) = steps(packed, length=80), steps(alone, length=80)
    assert (len(together.batches[0].tokens), len(apart.batches[0].tokens)) == (1, 5)
    require_same(value(packed, together), value(alone, apart))


def test_padding_and_prompts_are_not_ranked(reference: str, tmp_path: Path) -> None:
    examples = [question("after a?", "bcd"), question("say", "a long answer")]
    (step,) = steps(made(reference, tmp_path, share=0.5), examples, length=48, tokens=1)
    for batch in step.batches:
        assert not (batch.values["chosen"] > 0)[~batch.supervised].any()
    assert sum(int((b.values["chosen"] > 0).sum()) for b in step.batches) == 9  # of 4 + 14 targets


def test_scores_of_the_reference_alone_by_definition(reference: str, tmp_path: Path) -> None:
    batches = [b for s in steps(NextToken(), tokens=1) for b in s.batches]
    other = toy_model(1, torch.float32).module.double()
    model = toy_model()
    model.module.load_state_dict(other.state_dict())
    with torch.no_grad():
        losses = torch.cat([-model.token_logprobs(b) for b in batches])
        entropies = torch.cat([model.token_entropies(b) for b in batches])
    expected = {"loss": top(-losses, 0.5), "entropy": top(-entropies, 0.5)}
    expected["both"] = expected["loss"] & expected["entropy"]
    for score, chosen in expected.items():
        (step,) = steps(made(reference, tmp_path, share=0.5, score=score), tokens=1)
        found = torch.cat([b.at_targets("chosen") for b in step.batches])
        assert torch.equal(found > 0, chosen)
        assert float(found.mean()) == pytest.approx(1.0)
    (high,) = steps(made(reference, tmp_path, share=0.5, score="loss", highest=True), tokens=1)
    assert torch.equal(torch.cat([b.at_targets("chosen") for b in high.batches]) > 0, top(losses, 0.5))


def test_notes_say_what_was_chosen(reference: str, tmp_path: Path) -> None:
    (step,) = steps(made(reference, tmp_path, share=0.5), tokens=1)
    assert step.notes["chosen"] == pytest.approx(0.5, abs=0.02)
    gaps = [step.notes[f"live_{g}"] - step.notes[f"reference_{g}"] for g in ("chosen", "others")]
    assert gaps[0] > gaps[1]


def test_a_mix_is_drawn_as_its_phases_say_and_its_notes_are_kept(reference: str, tmp_path: Path) -> None:
    sources = {"one": DOCUMENTS[:2], "two": DOCUMENTS[2:]}
    mix = Mix(sources, (Phase(60, {"one": 1.0}), Phase(60, {"one": 1.0, "two": 1.0})))
    chosen, plain = (steps(o, mix, batch_size=2) for o in (made(reference, tmp_path), NextToken()))
    assert len(chosen) == len(plain) > 1
    for step, other in zip(chosen, plain, strict=True):
        assert other.notes.items() <= step.notes.items()
        assert [b.tokens.tolist() for b in step.batches] == [b.tokens.tolist() for b in other.batches]


def test_choices_that_meet_nowhere_teach_nothing(reference: str, tmp_path: Path) -> None:
    found = [steps(made(reference, tmp_path, share=0.01, score="both"), [d], batch_size=1) for d in DOCUMENTS]
    empty = [step for one in found for step in one if not step.batches]
    assert empty
    assert all(step.notes["chosen"] == 0 for step in empty)


def test_by_pass_nothing_is_read_twice(reference: str, tmp_path: Path) -> None:
    (step,) = steps(made(reference, tmp_path, share=0.5, ranking="pass"), tokens=1)
    assert all("reference" in b.values for b in step.batches)
    model = toy_model()
    for batch in step.batches:
        (live,) = live_losses(model, [batch])
        chosen = top(live - batch.at_targets("reference"), 0.5)
        loss = made(reference, tmp_path, share=0.5, ranking="pass").loss(model, batch)
        assert loss.item() == pytest.approx(float(live[chosen].mean()), abs=1e-12)


def experiences(objective: Selective, tokens: int = 24) -> tuple[list[Experience], Recipe]:
    stream = toy_stream(9)
    return [replace(e, objective=objective) for e in stream.experiences[1:]], replace(RECIPE, tokens=tokens, length=64)


def learned(method: Method, objective: Selective, folder: Path | None = None, tokens: int = 24) -> State:
    """What is learned of two experiences; stopped after two steps of each and gone on with, where there is a folder."""
    found, recipe = experiences(objective, tokens)
    learner, model = Learner("toy", method, recipe), toy_model()
    state = learner.start(model)
    for experience in found:
        if folder:
            stopped = Watch(folder / experience.name, stop=partial(next, iter([False, True]), False))
            with pytest.raises(Interrupted):
                learn(learner, model, state, experience, stopped)
            model = learner.restore(toy_model(), state)
        state = learn(learner, model, state, experience, Watch(folder and folder / experience.name))
    return state


METHODS = {"plain": chain(), "lora": chain(LoRA(rank=2), Replay(fraction=0.3)), "ewc": EWC(samples=4), "lwf": LwF()}


@pytest.mark.parametrize("tokens", [24, 4096])
@pytest.mark.parametrize("name", METHODS)
def test_it_resumes_with_every_kind_of_method(name: str, tokens: int, reference: str, tmp_path: Path) -> None:
    objective, method = made(reference, tmp_path, share=0.5), METHODS[name]
    straight, resumed = learned(method, objective, None, tokens), learned(method, objective, tmp_path / "at", tokens)
    assert equal(straight.weights, resumed.weights)


def test_it_learns_otherwise_than_all_tokens_do(reference: str, tmp_path: Path) -> None:
    one, two = (learned(chain(), made(reference, tmp_path, share=share)) for share in (0.5, 1.0))
    assert not equal(one.weights, two.weights)


def test_it_is_an_expression_and_its_own_configuration() -> None:
    objective = parse('Selective(reference="models/a", share=0.4, score="both")')
    assert objective == Selective("models/a", 0.4, "both")
    assert restore(plain(objective)) == parse(show(objective)) == objective


@pytest.mark.parametrize(
    "fields",
    [{"share": 0.0}, {"share": 1.5}, {"score": "x"}, {"ranking": "row"}, {"highest": True}, {"reference": ""}],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Selective(**({"reference": "a"} | fields))


def test_batches_of_others_and_models_of_others_are_refused() -> None:
    (step,) = steps(NextToken())
    with pytest.raises(ModelError, match="own steps' batches"):
        Selective("any").loss(toy_model(), step.batches[0])
    with pytest.raises(ModelError, match="is no LanguageModel"):
        next(Selective("any").steps(Spoken(torch.zeros(1)), DOCUMENTS, Plan()))
