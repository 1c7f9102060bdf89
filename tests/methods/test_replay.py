"""Replay mixes the share it promises, from the experiences it has seen."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from everlearn.errors import ConfigError, Interrupted
from everlearn.examples import Example
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.replay import Replay, RepresentativeReplay, SpacedReplay, replayed
from everlearn.models.features import prompt_features
from everlearn.testing.laws import RECIPE
from everlearn.testing.toys import question, toy_model, toy_stream
from everlearn.types import Memory
from everlearn.watch import Watch
from everlearn.weights import equal


def contexts() -> list[Context]:
    model = toy_model()
    return [Context(model, e, seen=i) for i, e in enumerate(toy_stream())]


def test_the_share_of_old_examples_is_the_fraction() -> None:
    first, second, _ = contexts()
    method = Replay(fraction=0.25)
    memory = method.end(method.init(first.model), first)
    mixed = method.data(memory, second.experience.train, second)
    old = [e for e in mixed if e.origin == "letters"]
    assert len(old) / len(mixed) == 0.25
    assert len({e.key for e in old}) == len(old)


def test_nothing_is_replayed_in_the_first_experience() -> None:
    first, *_ = contexts()
    assert Replay().data(Replay().init(first.model), first.experience.train, first) is first.experience.train


def test_a_small_buffer_is_used_up_before_it_is_used_again() -> None:
    first, second, _ = contexts()
    method = Replay(fraction=0.5, capacity=5)
    memory = method.end(method.init(first.model), first)
    old = [e.key for e in method.data(memory, second.experience.train, second) if e.origin == "letters"]
    assert len(old) == 12
    assert len(set(old[:5])) == len(set(old[5:10])) == 5


def test_the_buffer_is_bounded_and_balanced() -> None:
    method = Replay(capacity=6)
    memory = method.init(toy_model())
    for ctx in contexts():
        memory = method.end(memory, ctx)
    assert sorted(r["origin"] for r in memory["rows"]) == ["cats"] * 2 + ["digits"] * 2 + ["letters"] * 2
    assert memory["seen"] == 36


def test_other_moments_draw_other_examples() -> None:
    first, second, third = contexts()
    method = Replay(fraction=0.2)
    memory = method.end(method.init(first.model), first)
    draws = [[e.key for e in method.data(memory, second.experience.train, c)][12:] for c in (second, third, second)]
    assert draws[0] == draws[2] != draws[1]


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="fraction is in"):
        replace(Replay(), fraction=1.0)


def test_a_growing_course_replays_as_much_for_each_experience_as_a_constant_one_for_all() -> None:
    # 1/4 of all is 1/3 of 12 new ones, 4; after three experiences 12.
    assert [replayed(0.25, "growing", 12, seen) for seen in (1, 2, 3)] == [4, 8, 12]
    assert [replayed(0.25, "constant", 12, seen) for seen in (1, 2, 3)] == [4, 4, 4]
    _, second, third = contexts()
    method = Replay(fraction=0.25, course="growing")
    memory = method.end(method.end(method.init(second.model), contexts()[0]), second)
    assert len(method.data(memory, third.experience.train, third)) == 12 + 8


def labelled(name: str, **counts: int) -> Context:
    """An experience whose answers are labels, with so many examples of each."""
    rows = [question(f"{name} {label} {i}?", label, name) for label, n in counts.items() for i in range(n)]
    experience = replace(toy_stream().experiences[0], name=name, train=rows, labels=tuple(counts))
    return Context(toy_model(), experience)


def answers(memory: dict[str, list[dict[str, list[dict[str, str]]]]]) -> Counter[str]:
    return Counter(row["messages"][-1]["content"] for row in memory["rows"])


def test_classes_share_the_room_alike_within_their_experiences() -> None:
    method = Replay(capacity=12, selection="classes")
    memory = method.end(method.init(toy_model()), labelled("one", yes=40, no=2))
    assert answers(memory) == {"yes": 10, "no": 2}
    memory = method.end(memory, labelled("two", cat=9, dog=30))
    # Four classes and 12 places: two of "no" are there, the others have (12 - 2) / 3, what is over at the largest.
    assert answers(memory) == {"no": 2, "yes": 3, "cat": 3, "dog": 4}
    assert Counter(memory["groups"]) == {"one: no": 2, "one: yes": 3, "two: cat": 3, "two: dog": 4}


def test_an_experience_without_labels_is_one_class() -> None:
    method = Replay(capacity=9, selection="classes")
    memory = method.end(method.init(toy_model()), labelled("one", yes=40, no=40))
    memory = method.end(memory, contexts()[1])
    assert Counter(memory["groups"]) == {"one: no": 3, "one: yes": 3, "cats": 3}


@pytest.mark.parametrize(
    "method",
    [
        *(Replay(capacity=7, selection=s) for s in ("reservoir", "balanced", "classes")),
        *(RepresentativeReplay(capacity=7, selection=s) for s in ("herding", "herding-repo", "diverse")),
        SpacedReplay(capacity=7),
    ],
    ids=str,
)
def test_memory_stays_within_its_bound_after_many_experiences(method: Method) -> None:
    memory = method.init(toy_model())
    for number in range(9):
        for ctx in (contexts()[0], labelled("two", cat=5, dog=3)):
            experience = replace(ctx.experience, name=f"{ctx.experience.name}{number}")
            memory = method.end(memory, replace(ctx, experience=experience, seen=number))
            assert len(memory["rows"]) == len(memory["groups"]) == 7
            if number:
                rows = method.data(memory, ctx.experience.train, ctx)
                assert {e.origin for e in rows} <= {r["origin"] for r in memory["rows"]} | {"letters", "two"}


def test_herding_takes_within_each_label_what_keeps_the_mean() -> None:
    ctx = labelled("one", yes=6, no=5)
    memory = RepresentativeReplay(capacity=4).end({"rows": [], "groups": []}, ctx)
    for label in ("yes", "no"):
        own = [e for e in ctx.experience.train if e.response == label]
        features = prompt_features(ctx.model, own, 64, 256)
        kept = [r["messages"][0]["content"] for r in memory["rows"] if r["messages"][-1]["content"] == label]
        nearest = own[int((features - features.mean(0)).norm(dim=1).argmin())]
        assert len(kept) == 2
        assert kept[0] == nearest.messages[0].content


def test_what_herding_took_first_stays_longest() -> None:
    method = RepresentativeReplay(capacity=8)
    first = method.end(method.init(toy_model()), contexts()[0])
    second = method.end(first, contexts()[1])
    assert [r for r in second["rows"] if r["origin"] == "letters"] == first["rows"][:4]


def test_diverse_examples_come_from_different_clusters() -> None:
    near = [question("a" * 8 + letter, "x") for letter in "bcdefg"]
    ctx = contexts()[0]
    far = question("9 9 9 9 9 9", "y")
    experience = replace(ctx.experience, train=[*near, far])
    method = RepresentativeReplay(capacity=2, selection="diverse")
    memory = method.end({"rows": [], "groups": []}, replace(ctx, experience=experience))
    assert Example.from_row(memory["rows"][1]).key == far.key


def test_spaced_replay_adds_the_loss_of_stored_examples_when_it_is_its_turn() -> None:
    first, second, _ = contexts()
    method = SpacedReplay(strength=0.5, every=3, rows=12, capacity=12)
    memory = method.end(method.init(first.model), first)
    (batch,) = second.batches(second.experience.train, 99)
    with torch.no_grad():
        terms = [method.loss(memory, batch, replace(second, step=step)) for step in range(6)]
    assert [isinstance(term, float) for term in terms] == [True, True, False] * 2
    (whole,) = replace(first, plan=replace(first.plan, tokens=9999)).batches(first.experience.train, 99)
    assert float(terms[2]) == pytest.approx(0.5 * float(first.loss(whole).detach()), rel=1e-9)
    assert method.loss(method.init(first.model), batch, replace(first, step=2)) == 0.0


def test_spaced_replay_draws_anew_each_time() -> None:
    first, second, _ = contexts()
    method = SpacedReplay(rows=3)
    memory = method.end(method.init(first.model), first)
    (batch,) = second.batches(second.experience.train, 99)
    with torch.no_grad():
        terms = [float(method.loss(memory, batch, replace(second, step=step))) for step in (0, 1, 0)]
    assert terms[0] == terms[2] != terms[1]


def test_unknown_selections_are_refused() -> None:
    with pytest.raises(ConfigError, match="selection is reservoir"):
        replace(Replay(), selection="herding")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="course constant or growing"):
        replace(Replay(), course="falling")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="selection is herding"):
        replace(RepresentativeReplay(), selection="classes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="every, rows and capacity"):
        SpacedReplay(every=0)
    with pytest.raises(ConfigError, match="selection is reservoir"):
        replace(SpacedReplay(), selection="diverse")  # type: ignore[arg-type]


SHOWN: list[set[str]] = []


@dataclass(frozen=True)
class Seeing(Method):
    """Notes which old rows each epoch has."""

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        SHOWN.append({e.key for e in examples if e.origin != ctx.experience.name})
        return examples


def test_each_epoch_replays_others_and_a_resumed_one_the_same(tmp_path: Path) -> None:
    method, stream = chain(Replay(fraction=0.2), Seeing()), toy_stream()
    learner, model = Learner("toy", method, replace(RECIPE, epochs=4)), toy_model()
    first = learn(learner, model, learner.start(model), stream.experiences[0])
    SHOWN.clear()
    straight = learn(learner, model, first, stream.experiences[1])
    shown = SHOWN.copy()
    assert [len(rows) for rows in shown] == [3] * 4  # a fifth of 15
    assert len(set().union(*shown)) > 6
    asked = iter([False] * 5)  # four steps are an epoch: the sixth is in the second
    with suppress(Interrupted):
        fresh = learner.restore(toy_model(), first)
        learn(learner, fresh, first, stream.experiences[1], Watch(tmp_path / "c", stop=lambda: next(asked, True)))
    SHOWN.clear()
    resumed = learn(learner, learner.restore(toy_model(), first), first, stream.experiences[1], Watch(tmp_path / "c"))
    assert shown[1:] == SHOWN
    assert equal(resumed.weights, straight.weights)
