"""Pipeline parallelism: a model cut into stages, and a schedule that sends micro-batches through them."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, Packed, Reduction
from ilm_ray.training.parallel.mesh import Meshes
from ilm_ray.training.parallel.sharding import local_share

Window = tuple[Packed, Tensor]  # packed tokens and the label of each


class Passed(nn.Module):
    """In the place of another stage's module: it gives back its input.

    weight: the embedding's, in the last stage of a model whose head is tied to it.
    """

    weight: nn.Parameter | None

    def __init__(self, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        self.register_parameter("weight", weight)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x


def cut(model: CausalLM, stage: int, stages: int) -> CausalLM:
    """The part of `model` that holds the layers of one stage; it shares its modules with `model` and keeps their names.

    Modules of other stages give back their input: hidden states enter in place of tokens and leave in place of losses.
    Where the head is tied, first and last stage both have the matrix: see `SharedMatrix`.
    """
    backbone, layers, last = model.model, model.shape.layers, stage == stages - 1
    mine = range(stage * layers // stages, (stage + 1) * layers // stages)
    held: dict[int, nn.Module] = {id(backbone.layers): nn.ModuleDict({str(i): backbone.layers[str(i)] for i in mine})}
    embedding = backbone.tok_embeddings
    held[id(embedding)] = embedding if stage == 0 else Passed(_shared(model) if last else None)
    for module in (backbone.norm, model.output):
        held[id(module)] = module if last else Passed()
    return copy.deepcopy(model, held)  # copies the containers alone: modules in `held` are shared


def _shared(model: CausalLM) -> nn.Parameter | None:
    """The matrix of a tied head where a model, or a stage, has it."""
    weight: Any = model.model.tok_embeddings.weight
    return weight if model.shape.tied else None


class SharedMatrix:
    """The matrix that embedding and tied head share, which the first and the last rank of a pipeline both hold.

    Their first values and updates are the same, so they stay the same. Every rank makes one.
    """

    def __init__(self, parts: Sequence[CausalLM], meshes: Meshes) -> None:
        ranks = meshes.reading.mesh.flatten(1)  # (pp, the others)
        pairs = ranks[[0, -1]].T.tolist()
        self.group = meshes.group("pp") if len(ranks) == 2 else dist.new_subgroups_by_enumeration(pairs)[0]
        self.parameter = next((weight for weight in map(_shared, parts) if weight is not None), None)

    def sum_gradient(self) -> None:
        """Add up the gradients of embedding and head, once all micro-batches of a step have gone backward."""
        if self.parameter is not None:
            assert self.parameter.grad is not None
            dist.all_reduce(local_share(self.parameter.grad)[0], group=self.group)


class Pipeline:
    """This rank's stages, and the schedule that sends micro-batches through the stages of all ranks."""

    def __init__(
        self, parts: Sequence[CausalLM], layout: Layout, meshes: Meshes, precision: str, device: torch.device
    ) -> None:
        self.parts, self.layout, self.meshes = parts, layout, meshes
        self.numbers = [meshes.rank("pp") + i * layout.pp for i in range(layout.virtual_stages)]
        self.last = layout.stages - 1
        self.windows, self.scale = list[Window](), 1.0  # of the step under way
        self.fed = dict.fromkeys(self.numbers, 0)  # windows that each stage has begun
        self.device = device
        self.shared = SharedMatrix(parts, meshes) if parts[0].shape.tied else None
        # Of tensors between stages.
        self.dtype = torch.bfloat16 if precision == "bf16" else next(parts[0].parameters()).dtype
        # A summed loss keeps a gradient of the head's size until the micro-batch's backward. GPipe runs all backwards
        # after all forwards and would keep one for every micro-batch.
        self.reduction: Reduction = "none" if layout.schedule == "gpipe" else "sum"
        self._schedules: dict[tuple[int, int], Any] = {}
        for number, part in zip(self.numbers, parts, strict=True):
            part.register_forward_pre_hook(self._feed(number), prepend=True)

    def step(self, windows: list[Window], scale: float) -> Tensor:
        """Forward and backward of this rank's slices, all of one length; adds up gradients of scale * summed losses.

        Where the head is tied, it is called once between two steps of the optimizer.

        Returns the summed loss of each slice (windows); 0 on ranks without the last stage.
        """
        self.windows, self.scale, self.fed = windows, scale, dict.fromkeys(self.numbers, 0)
        schedule = self._schedule(len(windows), len(windows[0][1]))
        # The schedule splits this into micro-batches, of which it passes each stage one after the other; each stage
        # takes the next of the windows.
        numbers = torch.arange(len(windows))
        losses: list[Tensor] = []
        arguments = (numbers,) if 0 in self.numbers else ()
        target = {"target": numbers, "losses": losses} if self.last in self.numbers else {}
        schedule.step(*arguments, return_outputs=False, **target)
        if self.shared is not None:
            self.shared.sum_gradient()
        self.windows = []
        if not losses:
            return torch.zeros(len(windows), dtype=self._loss_dtype, device=self.device)
        return torch.stack(losses).detach() / scale

    @torch.no_grad()
    def forward(self, batch: Packed, labels: Tensor | None) -> Tensor:
        """The whole model's output for this rank's slice of a batch, on all ranks; one stage runs after the other."""
        group, pp, rows = self.meshes.group("pp"), self.layout.pp, len(batch.tokens)
        ranks = dist.get_process_group_ranks(group)
        x = torch.empty(self._hidden_shape(rows), dtype=self.dtype, device=self.device)
        for number, part in zip(self.numbers, self.parts, strict=True):
            if number > 0:
                dist.recv(x, ranks[(number - 1) % pp], group=group)
            taken = batch.tokens if number == 0 else x
            given = part(dataclasses.replace(batch, tokens=taken), labels if number == self.last else None)
            if number < self.last:
                dist.send(given.contiguous(), ranks[(number + 1) % pp], group=group)
        if self.last not in self.numbers:
            shape = (rows,) if labels is not None else (rows, self.parts[0].shape.vocab_size)
            given = torch.empty(shape, dtype=self._loss_dtype if labels is not None else self.dtype, device=self.device)
        dist.broadcast(given, ranks[self.last % pp], group=group)
        return given

    @property
    def _loss_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def _hidden_shape(self, rows: int) -> tuple[int, int]:
        """Shape of the tensors between stages: with sequence parallelism each tensor-parallel rank has a part."""
        return rows // (self.layout.tp if self.layout.sequence_parallel else 1), self.parts[0].shape.hidden

    def _feed(self, stage: int) -> Any:
        """A hook that turns the schedule's input, for a later stage the output of the one before, into the model's."""

        def hook(_module: nn.Module, arguments: tuple[Any, ...]) -> Any:
            if not self.windows:  # called with a batch as any model
                return None
            batch, labels = self.windows[self.fed[stage]]
            self.fed[stage] += 1
            if stage > 0:
                batch = dataclasses.replace(batch, tokens=arguments[0])
            return (batch, labels, self.reduction) if stage == self.last else (batch,)

        return hook

    def _schedule(self, count: int, rows: int) -> Any:
        """The schedule for `count` windows of `rows` rows. Tensor sizes are given: torch needs no trial run."""
        from torch.distributed.pipelining import PipelineStage  # takes a second: only where there are stages

        if (count, rows) not in self._schedules:
            hidden, losses = (
                torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
                for shape, dtype in (
                    (self._hidden_shape(rows), self.dtype),
                    ((rows,) if self.reduction == "none" else (), self._loss_dtype),
                )
            )
            stages = [
                PipelineStage(
                    part,
                    number,
                    self.layout.stages,
                    self.device,
                    input_args=torch.empty(1, dtype=torch.long, device="meta") if number == 0 else hidden,
                    output_args=losses if number == self.last else hidden,
                    group=self.meshes.group("pp"),
                )
                for number, part in zip(self.numbers, self.parts, strict=True)
            ]
            self._schedules[count, rows] = self._make(stages, count)
        return self._schedules[count, rows]

    def _make(self, stages: list[Any], count: int) -> Any:
        from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

        settings: dict[str, Any] = {
            "n_microbatches": count,
            "loss_fn": lambda losses, _numbers: losses.sum() * self.scale,
            "scale_grads": False,  # the loss is divided by what all windows predict together, not by their number
        }
        if self.layout.schedule == "interleaved":
            return ScheduleInterleaved1F1B(stages, **settings)
        single = ScheduleGPipe if self.layout.schedule == "gpipe" else Schedule1F1B
        return single(stages[0], **settings)
