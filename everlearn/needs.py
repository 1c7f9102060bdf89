"""What a method needs, asked before anything is learned: how parameters lie, what a stream tells and keeps apart."""

from everlearn.errors import MethodError
from everlearn.method import Method, members, overrides
from everlearn.types import Stream


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
