"""O stays off what was read before, R answers by how much of an input is its own, and that says whose prompt it is."""

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from everlearn.data.packing import Row, collate
from everlearn.fold import Settings, run
from everlearn.learner import Learner, learn
from everlearn.measures import routing_accuracy
from everlearn.methods.dual import DualLoRA, DynamicMemory, calibration, shares
from everlearn.models.answers import answer, identify
from everlearn.models.bank import Bank, Shape, banks
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.prompts import prompt_batches
from everlearn.models.routes import Request, Switch
from everlearn.models.subspace import Subspace
from everlearn.testing.toys import question, toy_folder, toy_model, toy_stream
from everlearn.types import Experience, Given, State
from tests.models.lively import lively_model
from tests.models.neighbours import document, logprobs, require_alone_among_neighbours

RECIPE = Recipe(AdamW(learning_rate=0.02, weight_decay=0.1), batch_size=4, length=64, epochs=2)
METHOD = DualLoRA(rank=3, energy=0.6, samples=8)


def learned(count: int, model: LanguageModel, method: DualLoRA = METHOD) -> list[State]:
    learner = Learner("toy", method, RECIPE)
    states = [learner.start(model)]
    for experience in toy_stream().experiences[:count]:
        states.append(learn(learner, model, states[-1], experience))
    return states


def old(state: State, name: str) -> Subspace:
    found = state.memory[0]["old"][name]
    return Subspace(found["basis"], found["complement"])


def test_the_share_of_an_input_in_residual_bases_by_hand() -> None:
    bases = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    x = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]])
    assert torch.allclose(shares(x, bases), torch.tensor([[9 / 25, 16 / 25], [0, 1], [0, 0]]))
    assert torch.allclose(shares(x, bases, "cosine"), torch.tensor([[0.6, 0.8], [0, 1], [0, 0]]))


def test_dynamic_memory_gates_a_layer_by_hand() -> None:
    bank, switch = Bank(nn.Linear(2, 1, bias=False)), Switch(2)
    for _ in range(4):
        bank.add(Shape(1))
    bank.gate = DynamicMemory(bank, switch, "share")
    rows = ([[1.0, 1.0]], [[1.0, 0.0]], [[1.0, -1.0]], [[0.0, 1.0]])
    with torch.no_grad():
        bank.base.weight.copy_(torch.tensor([[1.0, 1.0]]))  # type: ignore[operator,union-attr]
        for a, b, row, factor in zip(bank.A, bank.B, rows, (1.0, 10.0, 2.0, 100.0), strict=True):
            a.copy_(torch.tensor(row))
            b.fill_(factor)
        x = torch.tensor([[[3.0, 4.0]]])
        # W x = 7; O_1 x = 7, O_2 x = 2 * -1; R_1 x = 10 * 3 and R_2 x = 100 * 4, by 9/25 and 16/25
        assert float(bank(x)) == pytest.approx(7 + 7 - 2 + 30 * 9 / 25 + 400 * 16 / 25)
        with switch.turned(torch.tensor([[[0.0, 1.0]]])):
            assert float(bank(x)) == pytest.approx(7 + 7 - 2 + 400)
        with switch.turned(torch.tensor([[[math.nan, math.nan]]])):
            assert float(bank(x)) == pytest.approx(7 + 7 - 2 + 30 * 9 / 25 + 400 * 16 / 25)


def test_dynamic_memory_with_bases_of_their_own_by_hand() -> None:
    bank, switch = Bank(nn.Linear(2, 1, bias=False)), Switch(2)
    for _ in range(4):
        bank.add(Shape(1))
    bases = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]])
    gate = DynamicMemory(bank, switch, "share", (bases, torch.tensor([2.0, 3.0])))
    # (3, 4) - (2, 3) = (1, 1): energies 1 and 1.4^2 = 1.96, whatever the rows of R are
    assert torch.allclose(gate(torch.tensor([3.0, 4.0])), torch.tensor([1, 1 / 2.96, 1, 1.96 / 2.96]))


def test_an_experience_is_told_by_its_own_directions_about_the_first_ones_mean() -> None:
    model = toy_model()
    memory = learned(2, model, replace(METHOD, samples=1000))[-1].memory[0]
    assert {len(found) for found in memory["own"].values()} == {2}
    name, bank = next(iter(banks(model.module).items()))
    # The lowest layer reads what no adapter changes: inputs are now what they were at the beginning of each experience.
    seen = []
    for experience in toy_stream().experiences[:2]:
        rows = [model.encode(e).tokens if e.text else model.encode_prompt(e.prompt) for e in experience.train]
        read: list[Tensor] = []
        hook = bank.register_forward_pre_hook(lambda _, given, to=read: to.append(given[0]))  # type: ignore[misc]
        with torch.no_grad():
            for group, batch in prompt_batches(rows):
                model.hidden(batch)
                read[-1] = torch.cat([read[-1][place, : len(rows[n])] for place, n in enumerate(group)])
        hook.remove()
        seen.append(torch.cat(read))
    assert torch.allclose(memory["centre"][name], seen[0].mean(0))
    for x, own in zip(seen, memory["own"][name], strict=True):
        z = x - seen[0].mean(0)
        lengths = torch.linalg.svdvals(z)
        assert torch.allclose((z @ own.T).square().sum(), lengths[:3].square().sum())
        assert torch.allclose(own @ own.T, torch.eye(3, dtype=own.dtype), atol=1e-8)


def test_what_all_prompts_have_in_common_does_not_make_them_the_first_experiences() -> None:
    torch.manual_seed(0)
    common, noise = 50 * torch.eye(6)[0], 0.1
    directions = torch.eye(6)[1:5].view(2, 2, 6)  # two experiences vary in two directions each
    inputs = [common + torch.randn(200, 2) @ own + noise * torch.randn(200, 6) for own in directions]
    centre = inputs[0].mean(0)
    own = torch.stack([torch.linalg.svd(x - centre, full_matrices=False)[2][:2] for x in inputs])
    first = torch.linalg.svd(inputs[0], full_matrices=False)[2][:2]
    off = inputs[1] - inputs[1] @ first.T @ first
    residual = torch.stack([first, torch.linalg.svd(off, full_matrices=False)[2][:2]])
    taken = [shares(inputs[1], residual).argmax(-1), shares(inputs[1] - centre, own).argmax(-1)]
    assert [round(float(found.float().mean())) for found in taken] == [0, 1]


def test_the_movement_of_o_lies_off_what_old_experiences_have_read_under_adamw() -> None:
    states = learned(3, toy_model())
    for number in (1, 2):
        before, after = states[number], states[number + 1]
        rows = {n.partition(".A.")[0]: a for n, a in after.weights.items() if n.endswith(f".A.{2 * number}")}
        for name, a in rows.items():
            inside = a.T - old(before, name).off(a.T)
            assert 0 < old(before, name).basis.shape[1] < a.shape[1]
            assert float(inside.abs().max()) < 1e-10
            assert float(a.norm()) > 0.1, "A has not been projected away"
            assert float(after.weights[f"{name}.B.{2 * number}"].abs().max()) > 1e-4, "B has learned"


def test_the_movement_by_hand_and_nothing_else_is_changed() -> None:
    memory = {"names": ["a", "b"], "old": {"l": {"basis": torch.tensor([[0.6], [0.8]]), "complement": False}}}
    update = {"l.A.2": torch.tensor([[1.0, 0.0]]), "l.B.2": torch.ones(2, 1), "l.B.3": torch.ones(2, 1)}
    found = METHOD.update(memory, update, None)  # type: ignore[arg-type]
    # (1, 0) has 0.6 along (0.6, 0.8): (1 - 0.36, -0.48)
    assert torch.allclose(found["l.A.2"], torch.tensor([[0.64, -0.48]]))
    assert all(found[n] is update[n] for n in ("l.B.2", "l.B.3"))


def test_residual_bases_of_experiences_are_orthonormal_and_off_each_other() -> None:
    memory = learned(3, toy_model())[-1].memory[0]
    assert {len(found) for found in memory["residual"].values()} == {3}
    for found in memory["residual"].values():
        rows = torch.cat(found)
        rows = rows[rows.any(1)]
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=rows.dtype), atol=1e-8)


def test_earlier_adapters_stand_still() -> None:
    states = learned(3, toy_model())
    for before, after in ((states[1], states[2]), (states[2], states[3])):
        assert all(torch.equal(value, after.weights[name]) for name, value in before.weights.items())
    per_layer = [n.partition("q_proj.")[2] for n in states[1].weights if "layers.0.self_attn.q_proj" in n]
    assert sorted(per_layer) == ["A.0", "B.0", "B.1"], "of R the basis is memory"


def test_with_one_experience_the_dynamic_memory_is_the_plain_sum() -> None:
    model = lively_model()
    learned(1, model)
    for task in ("letters", ""):
        rows = [Row((document([7, 8, 9, 10], 2),), task=task)]
        found = logprobs(model, rows)
        gates = {bank: bank.gate for bank in banks(model.module).values()}
        for bank in gates:
            bank.gate = None
        assert torch.allclose(found, logprobs(model, rows), atol=1e-10, rtol=0)
        for bank, gate in gates.items():
            bank.gate = gate


def test_new_adapters_leave_a_told_experience_as_it_was() -> None:
    model = lively_model()
    state = learned(1, model)[-1]
    rows = [Row((document([7, 8, 9, 10], 2),), task="letters")]
    before = logprobs(model, rows)
    (memory,) = state.memory
    bases = {
        part: {name: [*found, torch.eye(3, found[0].shape[1])] for name, found in memory[part].items()}
        for part in ("residual", "own")
    }
    METHOD.params(memory | {"names": ["letters", "cats"], "labels": [[], []], **bases}, model)
    assert torch.allclose(before, logprobs(model, rows), atol=1e-12, rtol=0)


def test_an_example_that_is_learned_from_is_answered_by_its_own_residual_adapter_alone() -> None:
    model = lively_model()
    learned(2, model)
    assert model.router is not None
    weights = model.router.route([Request([7], origin=o) for o in ("cats", "letters", "digits")]).weights
    assert weights is not None
    assert weights[:2].tolist() == [[0, 1], [1, 0]]
    assert weights[2].isnan().all()
    told = model.router.route([Request([7], task="general ability: counting")]).weights
    assert told is not None
    assert told.tolist() == [[0, 0]]
    assert model.router.route([Request([7])]).weights is None
    text = document([7, 8, 9, 10], 2)
    with torch.no_grad():
        taught = model.token_logprobs(collate([Row((text,), (question("x", "y", "cats"),))]))
    assert torch.equal(taught, logprobs(model, [Row((text,), task="cats")]))
    assert float((taught - logprobs(model, [Row((text,))])).abs().max()) > 1e-6


@pytest.mark.parametrize("task", ["", "cats"])
@pytest.mark.parametrize("gating", ["share", "cosine"])
def test_a_document_is_answered_as_if_it_were_alone(gating: str, task: str) -> None:
    model = lively_model()
    learned(2, model, replace(METHOD, gating=gating))  # type: ignore[arg-type]
    with torch.no_grad():
        for bank in banks(model.module).values():
            for b in bank.B:
                b.normal_(std=0.2)
    require_alone_among_neighbours(model, task)


@pytest.mark.parametrize("identity", ["own", "residual"])
def test_the_posterior_is_the_softmax_of_the_mean_over_layers_and_tokens(identity: str) -> None:
    model = lively_model()
    state = learned(2, model, replace(METHOD, identity=identity))[-1]  # type: ignore[arg-type]
    examples = [question("what?", "yes"), question("name 3 b", "three")]
    prompts, seen = [model.encode_prompt(e.prompt) for e in examples], list[dict[str, Tensor]]()
    for prompt in prompts:
        read: dict[str, Tensor] = {}
        hooks = [
            bank.register_forward_pre_hook(lambda _, given, n=name, to=read: to.update({n: given[0][0]}))  # type: ignore[misc]
            for name, bank in banks(model.module).items()
        ]
        with torch.no_grad():
            model.hidden(next(prompt_batches([prompt]))[1])
        for hook in hooks:
            hook.remove()
        seen.append(read)
    memory = state.memory[0]
    bases = {name: torch.stack(found) for name, found in memory[identity].items()}
    centres = memory["centre"] if identity == "own" else dict.fromkeys(bases, torch.zeros(()))
    for (name, confidence), read in zip(identify(model, examples), seen, strict=True):
        mean = torch.stack([shares(x - centres[layer], bases[layer]).mean(0) for layer, x in read.items()]).mean(0)
        posterior = (METHOD.sharpness * mean).softmax(-1)
        assert name == ["letters", "cats"][int(posterior.argmax())]
        assert confidence == pytest.approx(float(posterior.max()), abs=1e-6)


def test_candidates_are_calibrated_by_hand() -> None:
    found = calibration([0.7, 0.3], [["a", "b"], ["b", "c"]], ["a", " b", "c", "d"])
    # c = 0.7: 0.3 + 0.7 * (0.7, 1.0, 0.3, 0)
    assert found == pytest.approx([math.log(p) for p in (0.79, 1.0, 0.51, 0.3)])
    assert calibration([1.0], [["a"]], ["d"])[0] < -60


def test_where_labels_are_known_the_inferred_experience_has_a_say_in_what_is_chosen() -> None:
    model, learner = lively_model(), Learner("toy", replace(METHOD, sharpness=1e6), RECIPE)
    state = learner.start(model)
    parts: tuple[Experience, ...] = toy_stream().experiences
    for experience, labels in ((parts[0], ("l", "m")), (parts[2], ("nine", "ten"))):
        state = learn(learner, model, state, replace(experience, labels=labels))
    examples, labels = [question("after q?", "r"), question("name 4 c", "four")], {"letters": "lm", "digits": "nt"}
    given = [Given(("l", "nine", "m", "ten"))] * len(examples)
    for example, reply in zip(examples, answer(model, "choose", examples, given), strict=True):
        assert reply.text[0] in labels[identify(model, [example])[0][0]]


def test_a_restored_version_answers_and_infers_as_the_live_one() -> None:
    live = toy_model()
    state, texts = learned(2, live)[-1], list(toy_stream().experiences[0].test)[:3]
    again = Learner("toy", METHOD, RECIPE).restore(toy_model(), state)
    for ask in ("generate", "predict"):
        assert answer(again, ask, texts) == answer(live, ask, texts)  # type: ignore[arg-type]
    assert identify(again, texts) == identify(live, texts)


def test_a_run_that_is_not_told_shows_its_routing_accuracy_and_one_that_is_told_shows_none(tmp_path: Path) -> None:
    learner = Learner(str(toy_folder(tmp_path / "toy")), METHOD, replace(RECIPE, epochs=1))
    stream, quiet = toy_stream(4), Settings(suite=())
    made = run(learner, stream, tmp_path / "domain", quiet).matrix
    found = routing_accuracy(made)
    expected = [fmean(o.routed == name for o in made.rows[-1].items(i)) for i, name in enumerate(made.names)]
    assert [m.value for m in found] == expected
    assert all(not o.routed for row in made.rows[:1] for i in range(3) for o in row.items(i)), (
        "the base model infers none"
    )
    assert routing_accuracy(run(learner, replace(stream, scenario="task"), tmp_path / "task", quiet).matrix) == ()
