"""A model over many ranks: `parallelize` distributes it, and `ParallelModel` is a rank's share of it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import loss_parallel

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model.attention import varlen_kernel
from ilm_ray.model.internlm2 import CausalLM, Packed, Reduction, ScalarModel, Shape, use_kernel
from ilm_ray.training.parallel.context import gather_rows, padded, slice_of, split_context, sum_slices
from ilm_ray.training.parallel.mesh import Meshes
from ilm_ray.training.parallel.recompute import compile_blocks, recompute_blocks
from ilm_ray.training.parallel.sharding import clip_gradients, keep_states, shard_states
from ilm_ray.training.parallel.stages import Pipeline, Window, cut
from ilm_ray.training.parallel.tensor import split_tensors

Micro = TypeVar("Micro")


def parallelize(model: CausalLM | ScalarModel, layout: Layout, device: torch.device, precision: str) -> "ParallelModel":
    """Distribute `model`, whole and the same on every rank, over all ranks. Every rank calls it.

    A model on the meta device, which no rank ever holds whole, comes out with memory but without values: the caller
    gives each of `parts` its weights, by `initialize` or from a checkpoint.

    The order matters: each step works on the result of the one before. precision: fp32 keeps the model's own type, bf16
    computes in bfloat16 and keeps master weights and reductions in fp32.
    """
    layout = layout.on(dist.get_world_size())
    layout.require_model(model.shape, model.shape.vocab_size)
    meshes = Meshes.of(layout, device.type)
    # 1. Pipeline: this rank's stages, cut out of the whole. Names stay, so a checkpoint does not know of stages.
    parts: list[CausalLM | ScalarModel] = [model]
    if layout.pp > 1:
        if not isinstance(model, CausalLM):
            raise NotImplementedError("only a language model has a pipeline: the scalar head needs the last stage")
        stages = range(meshes.rank("pp"), layout.stages, layout.pp)
        parts = [cut(model, stage, layout.stages) for stage in stages]
    kernel = varlen_kernel(device)
    for part in parts:
        use_kernel(part, kernel)
        # 2. Tensor: parameters become DTensors, which FSDP2 then splits once more.
        if layout.tp > 1:
            split_tensors(part, meshes.storing["tp"], layout.sequence_parallel)
        # 3. Context: attention looks beyond this rank's rows. No parameter is touched.
        if layout.cp > 1 and layout.cp_kind == "ring" and device.type == "cuda" and precision == "fp32":
            raise UserError("layout: cp_kind=ring needs training.precision=bf16 on a GPU; set that, or cp_kind=gather")
        if layout.cp > 1:
            split_context(part, meshes.group("cp"), layout.cp_kind)
        # 4. Recomputing: the work of a block is settled by now, collectives within it included.
        recompute_blocks(part, layout.recompute)
        # 5. Compiling: sees the recomputation, so it may fuse it with the backward.
        if layout.compile:
            compile_blocks(part)
        # 6. States: FSDP2 over the dp * cp ranks that hold the same weights. It moves each block to the device as it
        # splits it, so that no device ever holds the whole model.
        shard_states(part, meshes.states, layout, precision)
        if next(part.parameters()).is_meta:
            part.to_empty(device=device)
    # 7. Schedule: last, for it must know that its stages are FSDP2 modules.
    pipeline = None
    if layout.pp > 1:
        pipeline = Pipeline(parts, layout, meshes, precision, device)  # type: ignore[arg-type]
    return ParallelModel(parts, layout, meshes, pipeline)


class ParallelModel:
    """This rank's share of a model. From outside it is the whole: the ranks of a replica are called with the same batch
    and all get the result for it. A batch may lie on the CPU, where slices are cut without waiting for a device."""

    def __init__(
        self, parts: Sequence[CausalLM | ScalarModel], layout: Layout, meshes: Meshes, pipeline: Pipeline | None
    ) -> None:
        self.parts, self.layout, self.meshes, self.pipeline = parts, layout, meshes, pipeline

    @property
    def shape(self) -> Shape:
        return self.parts[0].shape

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameters(self) -> Iterator[nn.Parameter]:
        return itertools.chain.from_iterable(part.parameters() for part in self.parts)

    def clip_gradients(self, max_norm: float) -> float:
        """Scale all gradients so that their global norm is at most `max_norm`; returns the norm before."""
        return clip_gradients(self.parameters(), max_norm, self.layout.pp, self.twice)

    @property
    def twice(self) -> nn.Parameter | None:
        """The parameter of this rank that another stage of the pipeline holds too: a tied head's matrix."""
        shared = self.pipeline.shared if self.pipeline is not None else None
        return shared.parameter if shared is not None else None

    def active(self) -> AbstractContextManager[None]:
        """Context for forward and backward of the model: with tp the logits are split over the vocabulary."""
        return loss_parallel() if self.layout.tp > 1 else nullcontext()

    def __call__(self, batch: Packed, labels: Tensor | None = None, reduction: Reduction = "none") -> Tensor:
        """As the model's own call; inside `active()`. A pipeline gives no gradient here: see `backward_windows`."""
        rows, group = len(batch.tokens), self.meshes.group("cp")
        batch, labels = self._mine(batch, labels, _multiple(rows, self.layout.row_unit))
        if self.pipeline is not None:
            out = self.pipeline.forward(batch, labels)
            if reduction == "sum":
                out = out.sum()
        else:  # a scalar model takes no labels
            out = self.parts[0](batch) if labels is None else self.parts[0](batch, labels, reduction)
        if reduction == "sum":
            return sum_slices(out, group) if self.layout.cp > 1 else out
        return gather_rows(out, group, self.layout.cp_kind)[:rows] if self.layout.cp > 1 else out[:rows]

    def backward(self, micros: Sequence[Micro], loss_of: Callable[[Micro], Tensor], scale: float) -> None:
        """Add up gradients of the sum of scale * loss_of(micro), averaged over the dp ranks. Not with a pipeline."""
        part, ranks = self.parts[0], self.layout.cp
        with self.active():
            for number, micro in enumerate(micros, 1):
                keep_states(part, self.layout, last=number == len(micros))
                # FSDP2 averages over dp * cp ranks; those of cp each have their own rows' gradient.
                (loss_of(micro) * (scale * ranks)).backward()

    def backward_windows(self, windows: Sequence[Window], scale: float) -> list[Tensor]:
        """As `backward` for the summed loss of windows of tokens, in any layout; returns each window's summed loss."""
        losses: list[Tensor] = []

        def loss_of(window: Window) -> Tensor:
            batch, labels = window
            losses.append(self(batch, labels, "sum"))
            return losses[-1]

        if self.pipeline is None:
            self.backward(windows, loss_of, scale)
            return [loss.detach() for loss in losses]
        rows = _multiple(max(len(labels) for _, labels in windows), self.layout.row_unit)
        mine: list[Any] = [self._mine(batch, labels, rows) for batch, labels in windows]
        with self.active():
            sums = self.pipeline.step(mine, scale * self.layout.cp)
        for name in ("pp", "cp"):
            dist.all_reduce(sums, group=self.meshes.group(name))
        return list(sums)

    def _mine(self, batch: Packed, labels: Tensor | None, rows: int) -> tuple[Packed, Tensor | None]:
        """This rank's slice of a batch of `rows` rows, padding included, on this rank's device."""
        batch, labels = padded(batch, labels, rows)
        if self.layout.cp > 1:
            batch, labels = slice_of(batch, labels, self.meshes.rank("cp"), self.layout.cp, self.layout.cp_kind)
        return batch.to(self.device), None if labels is None else labels.to(self.device)


def _multiple(count: int, unit: int) -> int:
    return -(-count // unit) * unit
