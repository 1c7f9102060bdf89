"""What a method needs is asked before anything is learned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from everlearn.data.mixes import Mix, Phase
from everlearn.data.streams import blurry
from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Example
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.replay import Replay
from everlearn.models.optim import Recipe
from everlearn.needs import drawn, require_sharding, require_stream, require_tokens
from everlearn.objectives.preference import DPO
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory


@dataclass(frozen=True)
class Shuffled(Method):
    """Overrides `data` alone."""

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        return list(reversed(examples))


def test_a_method_is_held_to_replicated_parameters_unless_it_says_more() -> None:
    for method in (chain(), Shuffled(), LoRA(), Replay(), chain(LoRA(), Replay(), Shuffled())):
        require_sharding(method, "replicated")
        require_sharding(method, "sharded")
    require_sharding(EWC(), "replicated")
    with pytest.raises(MethodError, match=r"EWC\(.* needs parameters replicated, and this launch has them sharded"):
        require_sharding(chain(LoRA(), EWC()), "sharded")


@dataclass(frozen=True)
class Told(Method):
    """Needs to be told."""

    needs_task: ClassVar[bool] = True


@dataclass(frozen=True)
class Bounded(Method):
    """Needs boundaries."""

    needs_boundaries: ClassVar[bool] = True


def test_a_method_that_has_to_be_told_is_refused_where_the_scenario_does_not_tell() -> None:
    stream = replace(toy_stream(), scenario="class")
    require_stream(chain(Told(), LoRA()), replace(stream, scenario="task"))
    require_stream(chain(LoRA(), Replay()), stream)
    for method in (Told(), chain(LoRA(), Told())):
        with pytest.raises(MethodError, match=r"Told\(\) has to be told .* a class-incremental stream"):
            require_stream(method, stream)


def test_a_method_that_needs_boundaries_is_refused_where_they_are_blurred() -> None:
    stream = toy_stream()
    require_stream(chain(Bounded(), LoRA()), blurry(stream, 0.0))
    require_stream(chain(LoRA(), EWC()), blurry(stream, 0.5))
    for method in (Bounded(), chain(LoRA(), Bounded())):
        with pytest.raises(MethodError, match=r"Bounded\(\) needs boundaries between experiences, and 'toy' is blurry"):
            require_stream(method, blurry(stream, 0.5))


def test_a_mix_and_a_ramp_are_refused_to_objectives_that_do_not_count_tokens() -> None:
    cats = toy_stream().experiences[1]
    planned = replace(cats, train=Mix({"cats": cats.train}, (Phase(100, {"cats": 1}),)))
    ramp = Recipe(ramp=((100, 8, 64),))
    for experience, recipe in ((cats, Recipe()), (planned, Recipe()), (planned, ramp)):
        require_tokens(experience, recipe)
    require_tokens(replace(cats, objective=DPO()), Recipe())
    for experience, recipe, what in ((planned, Recipe(), "its mix of sources needs"), (cats, ramp, "a ramp needs")):
        with pytest.raises(ConfigError, match=rf"'cats': DPO.* does not count tokens, as {what}"):
            require_tokens(replace(experience, objective=DPO()), recipe)


def test_a_method_that_would_lose_the_phases_of_a_mix_is_refused() -> None:
    cats = toy_stream().experiences[1]
    planned = replace(cats, train=Mix({"cats": cats.train}, (Phase(100, {"cats": 1}),)))
    ctx = Context(toy_model(), planned)
    assert drawn(chain(), [], ctx) is planned.train
    assert drawn(Shuffled(), None, replace(ctx, experience=cats)) == list(reversed(cats.train))
    with pytest.raises(MethodError, match=r"Shuffled\(\) puts its own order"):
        drawn(Shuffled(), None, ctx)
