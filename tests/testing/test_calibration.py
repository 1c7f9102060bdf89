"""Every method is placed where forgetting is known beforehand, and nothing stands where it cannot."""

from dataclasses import replace

import pytest
import torch

from everlearn.data.streams import blurry, online
from everlearn.errors import MethodError
from everlearn.examples import Plan
from everlearn.learner import Learner, learn
from everlearn.method import Method, chain, members
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC, L2SP
from everlearn.methods.averaging import ModelStock
from everlearn.methods.context import AdjustedBase, PositionInterpolation, YaRN
from everlearn.methods.critic import Critic
from everlearn.methods.dark_replay import DERPP
from everlearn.methods.distillation import LwF, OldInputsKL
from everlearn.methods.freezing import Freeze, Slow
from everlearn.methods.gdumb import GDumb
from everlearn.methods.growth import BlockExpansion, DepthSplice
from everlearn.methods.importance import MAS, RWalk
from everlearn.methods.inflora import InfLoRA
from everlearn.methods.injection import SelfEdits
from everlearn.methods.interference import GSS, MIR
from everlearn.methods.latent_replay import LatentReplay
from everlearn.methods.orthogonal import SelfRegularizedCLoRA
from everlearn.methods.pruning import FAPM
from everlearn.methods.recycling import InheritAdapter, OldAdapterKL
from everlearn.methods.rehearsal import SSR
from everlearn.methods.replay import Replay, RepresentativeReplay, SpacedReplay
from everlearn.methods.rollout_filter import RIF
from everlearn.methods.self_distillation import SDFT
from everlearn.methods.soft_masks import SoftMask
from everlearn.methods.sparse_vectors import DARE, DELLA, Breadcrumbs
from everlearn.methods.subspaces import GPM, OSF
from everlearn.methods.vocabulary import GrowVocabulary
from everlearn.models.optim import AdamW, Recipe
from everlearn.needs import require_stream
from everlearn.testing.calibration import (
    ADAPTERS,
    EMBEDDING,
    FLOOR,
    WHOLE,
    WIDE,
    Placement,
    Setting,
    calibration_model,
    conflicting,
    disjoint,
    marked,
    place,
    uncovered,
)
from everlearn.testing.documents import method_classes
from everlearn.types import Stream

PLAN = Plan()
LATENT = chain(Freeze(below=1), LatentReplay(fraction=0.5))  # states do not age if what is below the cut stands still
ASKED: dict[type[Method], Method] = {
    Freeze: chain(LoRA(), Freeze()),  # what it freezes is all that learns here
    GrowVocabulary: GrowVocabulary(tokens=("zzz",), trains="all"),  # by itself it grows by nothing
    BlockExpansion: BlockExpansion(every=2),  # the model has two layers
    LatentReplay: LATENT,
    RIF: RIF(otherwise="keep"),  # nothing is attempted here
    SDFT: SDFT(limit=4),  # the default's are a hundred times as long
    SSR: SSR(pool=8, demonstrations=2, clusters=2, limit=4),  # the default writes for a quarter of a minute
}
UPGRADES = (InheritAdapter, OldAdapterKL)
"""They need an adapter of an older base, and act on the first experience alone: nothing is forgotten in one."""
METHODS = [ASKED[kind] if kind in ASKED else kind() for kind in method_classes() if kind not in UPGRADES]
SETTINGS: dict[Method, Setting] = {
    **dict.fromkeys((PositionInterpolation(), AdjustedBase(), YaRN()), EMBEDDING),  # they shape nothing that learns
    ASKED[GrowVocabulary]: EMBEDDING,
    Critic(): EMBEDDING,  # what it adds to the model learns nothing from answers
    GPM(): WHOLE,  # it acts on linear layers that learn
    OSF(): WHOLE,
    LATENT: WHOLE,  # the embedding lies below the cut
    Slow(): WHOLE,
    DepthSplice(): WHOLE,  # with half of its layers gone, all of the model has to learn
    SoftMask(): WHOLE,  # a unit of an embedding is a token: those that the base's own answers hang on are held still
    L2SP(): WHOLE,  # learning moves the embedding by its own length, for which it charges 268 nats; here 17
    InfLoRA(): replace(ADAPTERS, width=64),  # the first's inputs leave few of 32 dimensions
    FAPM(): WIDE,  # it takes back each change on a weight below the mean: more than half of one row of 32
    DARE(): WIDE,  # a tenth of one row of 32, ten times as long, is noise; a tenth of half a million is the change
    DELLA(): WIDE,
    Breadcrumbs(): WIDE,  # a seventh of all, scaled by 0.3
}
SHORT = {
    ModelStock()
}  # what two experiences that share nothing have changed is at right angles: their stock is the base
REPLAY: list[Method] = [
    *(DERPP(), GDumb(), MIR(), OldInputsKL(), SpacedReplay(), LATENT),
    *(kind(fraction=0.5) for kind in (Replay, GSS, RepresentativeReplay)),  # 0.1 of four rows is none
    Replay(fraction=0.3),  # two rows beside the four, others in each epoch: two of four would be kept if they stayed
]
ANCHORS: list[Method] = [EWC(), MAS(), RWalk()]


def placed_by(method: Method) -> Placement:
    return place(method, SETTINGS.get(method))


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
    placed = placed_by(method)
    assert method.needs_task or placed.conflicting.kept + placed.conflicting.new <= 1, "a prompt has one answer"
    if not uncovered(method) and method not in SETTINGS:
        assert placed.disjoint.forgotten <= FLOOR


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_learns_the_first_and_what_shares_nothing_with_it(method: Method) -> None:
    placed = placed_by(method)
    assert min(placed.conflicting.learned, placed.marked.learned) >= 0.75
    assert (placed.disjoint.new >= 0.5) is (method not in SHORT)


def test_whoever_says_that_it_forgets_what_is_apart_does() -> None:
    said = [method for method in METHODS if any(member.forgets_apart for member in members(method))]
    assert {type(method).__name__ for method in said} == {"DER", "LAMOL", "SelfEdits"}
    wrote = [
        method for method in said if not isinstance(method, SelfEdits)
    ]  # which writes nothing here that can be read
    assert all(placed_by(method).disjoint.forgotten > FLOOR for method in wrote)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_takes_blurred_experiences_in_one_pass_or_says_that_it_cannot(method: Method) -> None:
    scenario = "task" if method.needs_task else "domain"
    stream = replace(online(blurry(marked(), 0.5)), scenario=scenario)  # type: ignore[arg-type]
    if any(member.needs_boundaries for member in members(method)):
        with pytest.raises(MethodError, match="needs boundaries between experiences, and 'marked' is blurry"):
            require_stream(method, stream)
        return
    require_stream(method, stream)
    learner = Learner("calibration", method, Recipe(AdamW(0.01), batch_size=2, length=64))
    model = calibration_model(SETTINGS.get(method, EMBEDDING))
    state = learner.start(model)
    for experience in stream:
        state = learn(learner, model, state, experience)
    assert state.seen == stream.names


@pytest.mark.parametrize("method", [EWC(strength=0.0), LwF(strength=0.0), Replay(fraction=0.0)], ids=str)
def test_strength_zero_stands_where_plain_fine_tuning_stands(method: Method) -> None:
    assert replace(place(method), memory=0) == place(chain())


@pytest.mark.parametrize("method", REPLAY, ids=str)
def test_replay_keeps_both_halves_where_a_mark_tells_them_apart(method: Method) -> None:
    placed = placed_by(method)
    assert placed.marked.learned == 1
    assert min(placed.marked.kept, placed.marked.new) >= 0.75
    assert placed.memory > 0


@pytest.mark.parametrize("method", ANCHORS, ids=str)
def test_a_strong_anchor_keeps_the_first_and_learns_what_is_disjoint(method: Method) -> None:
    placed = place(method)
    assert placed.conflicting.kept >= 0.75
    assert (placed.disjoint.kept, placed.disjoint.new) == (1, 1)
    assert placed.memory > 0


def test_self_regularised_clora_keeps_the_first_and_learns_the_second_at_its_default() -> None:
    placed, free = place(SelfRegularizedCLoRA()), place(SelfRegularizedCLoRA(overlap=0.0))
    assert min(placed.marked.kept, placed.marked.new) >= 0.75
    assert free.marked.kept < placed.marked.kept
