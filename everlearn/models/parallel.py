"""Many processes as one learner: which of them this is, and what passes between them.

All processes go through the same steps. Of each step's batches every process takes a share, weighted by supervised
tokens over the whole step, and the gradients are summed before penalties, clipping and the method's hooks, so that
these see what one process would see.

Replicated (data parallel): the module is not wrapped in DistributedDataParallel. That averages gradients during each
backward pass, in the parameters' precision and over equal numbers of passes. Here a share may have any number of passes
(or none), each with its own weight, and the sum is made once a step, in the masters' precision. What is given up is
that communication overlaps with the backward pass.

Sharded (FSDP2, `fully_shard`): parameters, masters and moments are DTensors, each process holding a part. Every process
then makes as many passes as the others, spare ones of weight 0, because a forward pass gathers each layer from all.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import Any, Literal, TypeVar, TypeVarTuple

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from everlearn.data.shares import shares
from everlearn.errors import ConfigError, EverlearnError
from everlearn.examples import Batch, Step
from everlearn.models.adapted import HALF, adapted
from everlearn.models.language_model import LanguageModel
from everlearn.types import Memory, Model
from everlearn.weights import pack, unpack

Sharding = Literal["replicated", "sharded"]
Pass = Callable[[Callable[[], Any]], Any]
"""Calls a function that makes a forward pass, and returns what it returned."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many. The default is one process alone: every operation returns what it is given.

    Args:
        index: from 0; process 0 is the main one, which alone writes.
        count: how many there are.
        device: where this process computes; None where it is alone.
        plugin: how Accelerate's configuration file asks for sharding; None keeps parameters replicated.
    """

    index: int = 0
    count: int = 1
    device: torch.device | None = None
    plugin: FullyShardedDataParallelPlugin | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and is seen."""
        return self.index == 0

    @property
    def sharding(self) -> Sharding:
        """How parameters lie."""
        return "sharded" if self.plugin else "replicated"

    def share(self, step: Step) -> list[tuple[Batch, float]]:
        """This process's batches of a step, each with its weight; over all processes the weights sum to 1."""
        if self.count == 1:
            return [(batch, batch.weight / step.weight) for batch in step.batches]
        parts = shares(step.batches, self.count)
        mine = [(batch, batch.weight / step.weight) for batch in parts[self.index]]
        if self.plugin is None:
            return mine
        spare = min((batch for part in parts for batch in part), key=lambda batch: batch.tokens.numel())
        return mine + [(spare, 0.0)] * (max(map(len, parts)) - len(mine))

    def prepare(self, model: LanguageModel) -> Pass:
        """Make the model ready to be trained by all processes; its forward passes are then made by what is returned.

        Raises:
            ConfigError: if the model lies on another device than this process's.
        """
        if self.device is None:
            return _call
        _require_own_device(model.device, self.device, self.index)
        if self.plugin is None:
            for parameter in model.trainable().values():
                dist.broadcast(parameter.data, 0)
            return _call
        return _shard(model, self.plugin)

    def total(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over all processes of gradients that each has accumulated, in their own precision."""
        if self.plugin is not None:  # FSDP2 has averaged them in each backward pass
            return {name: grad * self.count for name, grad in grads.items()}
        summed = {name: grad.contiguous() for name, grad in grads.items()} if self.count > 1 else dict(grads)
        for work in [dist.all_reduce(grad, async_op=True) for grad in summed.values() if self.count > 1]:
            work.wait()
        return summed

    def add(self, number: float) -> float:
        """The sum of a number over all processes."""
        if self.count == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.count == 1:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return [bool(flag) for flag in tensor.tolist()]

    def by_main(self, act: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """What the main process gets by a call that it makes alone; its error is raised in every process."""
        if self.count == 1:
            return act(*arguments)
        box: list[Any] = [None, None]
        if self.main:
            try:
                box[0] = act(*arguments)
            except EverlearnError as error:
                box[1] = error
        dist.broadcast_object_list(box, 0)
        if box[1] is not None:
            raise box[1]
        found: T = box[0]
        return found

    def gather(self, part: T) -> list[T]:
        """Every process's part, in the processes' order."""
        parts: list[Any] = [part] * self.count
        if self.count > 1:
            dist.all_gather_object(parts, part)
        return parts

    def same(self, memory: Memory) -> Memory:
        """The main process's copy of plain data: on an accelerator, two processes may round a sum differently."""
        if self.count == 1:
            return memory
        skeleton, tensors = pack(memory)
        kinds = {name: (t.shape, t.dtype, t.device.type) for name, t in tensors.items()}
        skeleton, kinds = self.by_main(lambda: (skeleton, kinds))
        values: dict[str, Tensor] = {}
        for name, (shape, dtype, place) in kinds.items():
            mine = tensors[name].detach() if self.main else torch.empty(shape, dtype=dtype)
            sent = mine.to(self.device, copy=True).contiguous()
            dist.broadcast(sent, 0)
            values[name] = sent.to("cpu") if place == "cpu" else sent
        return unpack(skeleton, values)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors with the sharded ones among them gathered on the CPU, in every process."""
        return {n: t.full_tensor().cpu() if isinstance(t, DTensor) else t for n, t in tensors.items()}

    def sharded(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Names of the tensors that `whole` would gather."""
        return [name for name, tensor in tensors.items() if isinstance(tensor, DTensor)]

    def spread(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `whole` for tensors that lie as parameters do: each process keeps its own part."""
        if self.plugin is None or self.device is None:
            return dict(tensors)
        mesh = init_device_mesh(self.device.type, (self.count,))
        return {n: distribute_tensor(t.to(self.device), mesh, [Shard(0)]) for n, t in tensors.items()}

    @contextmanager
    def gathered(self, module: nn.Module) -> Iterator[None]:
        """Inside, every process holds the whole model and may compute what the others do not.

        That needs room for all weights on each device, without gradients and optimiser.
        """
        units = [(name, unit) for name, unit in module.named_modules() if isinstance(unit, FSDPModule)]
        for _, unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for name, unit in units:
                again = bool(name and self.plugin and self.plugin.reshard_after_forward)
                unit.set_reshard_after_forward(again, recurse=False)
                unit.reshard()


@cache
def launched() -> Processes:
    """What `accelerate launch` or torchrun has started this process as; alone where neither did.

    Raises:
        ConfigError: if the launch asks for something that cannot be done here; the message names what can.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    sharded = _asked_for("ACCELERATE_USE_FSDP")
    if _asked_for("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            "DeepSpeed brings an optimiser and a backward pass of its own, whose gradients and updates no method sees. "
            "Launch with FSDP2 in its place (fsdp_version: 2, which shards as ZeRO-3 does), or data parallel."
        )
    if count == 1 and not sharded:
        _refuse_a_launch_of_one()
        return Processes()
    plugin = _plugin() if sharded else None
    here = PartialState(
        cpu=not torch.accelerator.is_available() or _asked_for("ACCELERATE_USE_CPU"),
        timeout=timedelta(days=1),  # the launcher ends the others when one dies; a long evaluation is no death
    )
    atexit.register(here.destroy_process_group)
    return Processes(here.process_index, here.num_processes, here.device, plugin)


def passes(model: Model) -> Pass:
    """How forward passes are made with a model as it lies: where it is sharded, by all processes together."""
    module = model.module if isinstance(model, LanguageModel) else None
    return partial(_pass, module) if isinstance(module, FSDPModule) else _call


def total_norm(tensors: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of all tensors together; of sharded ones, of all their parts."""
    norm = torch.nn.utils.get_total_norm(list(tensors.values()))
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _asked_for(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"


def _refuse_a_launch_of_one() -> None:
    if _asked_for("ACCELERATE_USE_CPU") and "MASTER_PORT" in os.environ and "RANK" not in os.environ:
        raise ConfigError(
            "`accelerate launch --cpu --num_processes N` starts a single process and leaves others to MPI. Launch with "
            "`accelerate launch --multi_gpu --num_processes N`, which serves processors too, or with torchrun."
        )


def _plugin() -> FullyShardedDataParallelPlugin:
    # Each process reads the weights itself: transformers would leave all but the first one's empty otherwise.
    plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)
    if plugin.fsdp_version != 2 or plugin.activation_checkpointing:
        raise ConfigError(
            f"FSDP version {plugin.fsdp_version} with activation_checkpointing={plugin.activation_checkpointing}: "
            "write fsdp_version: 2 and fsdp_activation_checkpointing: false into Accelerate's configuration file."
        )
    return plugin


def _require_own_device(found: torch.device, own: torch.device, index: int) -> None:
    if found.type != own.type or (own.index or 0) != (found.index or 0):
        raise ConfigError(
            f"the model lies on {found}, and process {index} was given {own}; leave the learner's device open."
        )


def _shard(model: LanguageModel, plugin: FullyShardedDataParallelPlugin) -> Pass:
    """Shard a model's layers and what is left of it, unless it is sharded; how to make forward passes with it."""
    module: Any = model.module
    if not isinstance(module, FSDPModule):
        assert {model.splits_head, model.packs} <= {True, False}  # probed now: a probe is a forward pass of its own
        for layer in adapted(module).values():
            layer.separate()
        plugin.set_auto_wrap_policy(module)
        layer = fsdp2_prepare_auto_wrap_policy(plugin, module)
        # Gradients of half precision are summed in float32; others in their own precision.
        summed = torch.float32 if any(p.dtype in HALF for p in module.parameters()) else None
        policies = {"offload_policy": plugin.cpu_offload, "mp_policy": MixedPrecisionPolicy(reduce_dtype=summed)}
        for part in [m for m in module.modules() if m is not module and layer is not None and layer(m)]:
            fully_shard(part, reshard_after_forward=plugin.reshard_after_forward, **policies)
        # The loss reads the head's weight beside the module's own forward, so that all of it runs as one forward of
        # the outermost unit: FSDP2 gathers before, and prepares the backward pass after.
        module.everlearn_pass = _call
        fully_shard(module, **policies)
        register_fsdp_forward_method(module, "everlearn_pass")
        module.everlearn_pass(lambda: None)  # makes this unit the outermost one
    module.reshard()
    return passes(model)


def _pass(module: Any, work: Callable[[], Any]) -> Any:
    value = module.everlearn_pass(work)
    if not torch.is_grad_enabled():
        module.reshard()  # no backward pass will
    return value


def _call(work: Callable[[], Any]) -> Any:
    return work()
