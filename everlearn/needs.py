"""What methods and schedules need, asked before anything is learned.

How parameters lie, what a stream tells and keeps apart, and who counts tokens.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from everlearn.data.sequences import Planned
from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Example
from everlearn.method import Context, Method, members, overrides
from everlearn.models.optim import Recipe
from everlearn.types import Experience, Memory, Stream


@runtime_checkable
class CountsTokens(Protocol):
    """An objective that draws a mix as its phases say, and cuts steps as a recipe's ramp says."""

    counts_tokens: bool


def require_tokens(experience: Experience, recipe: Recipe) -> None:
    """Refuse a mix or a ramp under an objective that would not follow it.

    Raises:
        ConfigError: naming the objective.
    """
    planned = isinstance(experience.train, Planned)
    if (planned or recipe.ramp) and not isinstance(experience.objective, CountsTokens):
        raise ConfigError(
            f"experience {experience.name!r}: {experience.objective} does not count tokens, as "
            f"{'its mix of sources needs' if planned else 'a ramp needs'}; take NextToken(), or leave that out."
        )


def require_no_plan(experience: Experience, recipe: Recipe) -> None:
    """Refuse a mix and a ramp in a loop that is not ours, and would not follow them.

    Raises:
        ConfigError: naming the experience, or the ramp.
    """
    if recipe.ramp:
        raise ConfigError(
            f"ramp={recipe.ramp}: another library's loop cuts its own steps, and would not follow the recipe's ramp. "
            "Learn with `everlearn.learn`, or leave it out."
        )
    if isinstance(experience.train, Planned):
        raise ConfigError(
            f"experience {experience.name!r}: another library's loop puts its own order in place of a mix's phases. "
            "Learn it with `everlearn.learn`, or give the loop the sources as plain examples."
        )


def drawn(method: Method, memory: Memory, ctx: Context) -> Sequence[Example]:
    """What a method makes of an experience's examples, unless it loses the plan of a mix.

    Raises:
        MethodError: if it does.
    """
    made = method.data(memory, ctx.experience.train, ctx)
    if isinstance(ctx.experience.train, Planned) and not isinstance(made, Planned):
        raise MethodError(
            f"{method} puts its own order in place of a mix's phases. Leave it out, take Replay, or make what it would "
            "add a source of the mix."
        )
    return made


def require_sharding(method: Method, sharding: str) -> None:
    """Refuse a method, or a chain with a member, that cannot work while parameters lie as `sharding` says.

    Raises:
        MethodError: naming the member and the sharding.
    """
    for member in members(method):
        known = member.shardings
        if known is None:
            known = frozenset({"replicated", "sharded"} if overrides(member) <= {"data"} else {"replicated"})
        if sharding not in known:
            raise MethodError(
                f"{member} needs parameters {' or '.join(sorted(known))}, and this launch has them {sharding}. "
                "Launch data parallel (`accelerate launch --multi_gpu`), or leave the method out."
            )


def require_stream(method: Method, stream: Stream) -> None:
    """Refuse a method, or a chain with a member, that needs what the stream does not tell or does not keep apart.

    Raises:
        MethodError: naming the member, and the stream's scenario or that it is blurry.
    """
    for member in members(method):
        if member.needs_task and stream.scenario != "task":
            raise MethodError(
                f"{member} has to be told which experience a prompt belongs to, and a {stream.scenario}-incremental "
                "stream does not tell. Make the stream task-incremental, or take a method that infers it."
            )
        if member.needs_boundaries and stream.blurry:
            raise MethodError(
                f"{member} needs boundaries between experiences, and {stream.name!r} is blurry: some rows are met in "
                "another experience than their own. Leave `blurry` out, or take another method."
            )
