"""Every method is placed where forgetting is known beforehand, and nothing stands where it cannot."""

from dataclasses import replace

import pytest
import torch

from everlearn.examples import Plan
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.dark_replay import DER, DERPP
from everlearn.methods.distillation import LwF, OldInputsKL
from everlearn.methods.freezing import Freeze
from everlearn.methods.gdumb import GDumb
from everlearn.methods.growth import BlockExpansion
from everlearn.methods.importance import MAS, RWalk
from everlearn.methods.interference import MIR
from everlearn.methods.rehearsal import LAMOL, SSR
from everlearn.methods.replay import Replay, SpacedReplay
from everlearn.methods.subspaces import GPM, OSF
from everlearn.testing.calibration import FLOOR, calibration_model, conflicting, disjoint, is_covered, marked, place
from everlearn.testing.documents import method_classes
from everlearn.types import Stream

PLAN = Plan()
ASKED: dict[type[Method], Method] = {
    Freeze: chain(LoRA(), Freeze()),  # what it freezes is all that learns here
    BlockExpansion: BlockExpansion(every=2),  # the model has two layers
    SSR: SSR(pool=8, demonstrations=2, clusters=2, limit=4),  # the default writes for a quarter of a minute
}
WHOLE = {GPM, OSF}  # they act on linear layers that learn
METHODS = [ASKED.get(kind, kind()) for kind in method_classes()]
ACT_ON_THE_FIRST = {DER, LAMOL}  # calibration.py says how
REPLAY: list[Method] = [DERPP(), GDumb(), MIR(), OldInputsKL(), Replay(fraction=0.5), SpacedReplay()]
ANCHORS: list[Method] = [EWC(), MAS(), RWalk()]


def tokens(stream: Stream, index: int) -> set[int]:
    model, experience = calibration_model(), stream.experiences[index]
    return {token for example in experience.train for token in model.encode(example).tokens[:-1]}


def test_plain_fine_tuning_forgets_all_of_the_conflicting_pair_and_nothing_of_the_disjoint_one() -> None:
    plain = place(chain())
    assert (plain.conflicting.learned, plain.conflicting.kept, plain.conflicting.new) == (1, 0, 1)
    assert (plain.disjoint.learned, plain.disjoint.kept, plain.disjoint.new) == (1, 1, 1)
    assert plain.marked.forgotten > 0.5
    assert plain.memory == 0


def test_the_streams_are_what_the_proofs_ask_for() -> None:
    first, second = ({e.prompt: e.response for e in experience.train} for experience in conflicting())
    assert first.keys() == second.keys()
    assert all(first[prompt] != second[prompt] for prompt in first)
    assert not tokens(disjoint(), 0) & tokens(disjoint(), 1)
    assert tokens(marked(), 0) & tokens(marked(), 1)


def test_the_second_of_the_disjoint_pair_has_no_gradient_at_the_tokens_of_the_first() -> None:
    model, stream = calibration_model(), disjoint()
    objective = stream.experiences[1].objective
    from_second = [b for s in objective.steps(model, stream.experiences[1].train, PLAN) for b in s.batches]
    objective.loss(model, from_second[0]).backward()  # type: ignore[no-untyped-call]
    ((_, embedding),) = model.trainable().items()
    assert embedding.grad is not None
    rows = torch.nonzero(embedding.grad.abs().sum(1))[:, 0].tolist()
    assert set(rows) == tokens(stream, 1)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_stands_where_it_can(method: Method) -> None:
    placed = place(method, whole=type(method) in WHOLE)
    assert method.needs_task or placed.conflicting.kept + placed.conflicting.new <= 1, "a prompt has one answer"
    if is_covered(method) and type(method) not in WHOLE | ACT_ON_THE_FIRST:
        assert placed.disjoint.forgotten <= FLOOR


@pytest.mark.parametrize("method", [EWC(strength=0.0), LwF(strength=0.0), Replay(fraction=0.0)], ids=str)
def test_strength_zero_stands_where_plain_fine_tuning_stands(method: Method) -> None:
    assert replace(place(method), memory=0) == place(chain())


@pytest.mark.parametrize("method", REPLAY, ids=str)
def test_replay_keeps_both_halves_where_a_mark_tells_them_apart(method: Method) -> None:
    placed = place(method)
    assert placed.marked.learned == 1
    assert min(placed.marked.kept, placed.marked.new) >= 0.75
    assert placed.memory > 0


@pytest.mark.parametrize("method", ANCHORS, ids=str)
def test_a_strong_anchor_keeps_the_first_and_learns_what_is_disjoint(method: Method) -> None:
    placed = place(method)
    assert placed.conflicting.kept >= 0.75
    assert (placed.disjoint.kept, placed.disjoint.new) == (1, 1)
    assert placed.memory > 0
