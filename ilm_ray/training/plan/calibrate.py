"""Measures the devices at hand in a short run and describes them to the planner as a `Device`.

Every rank measures at the same time, so that cores, memory and links are shared as in training.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import Block, CausalLM, Documents, Packed
from ilm_ray.model.loss import summed_loss
from ilm_ray.model.shape import Shape
from ilm_ray.training.parallel.parallelize import parallelize
from ilm_ray.training.plan.devices import Device, Link
from ilm_ray.training.plan.planner import predict
from ilm_ray.training.plan.step import OptimizerStep, block_matrices
from ilm_ray.training.plan.timing import OPTIMIZER_BYTES
from ilm_ray.training.plan.traffic import Operation, hops, sent

# Repeats of each measurement, after one that is not counted. The mean is taken: a step is long enough to meet every
# disturbance in its usual share, which a median of short runs would leave out.
REPEATS = 8
SIZES = (2**16, 2**20, 2**23)  # bytes of a collective
LOSS_ROWS = 512
WHOLE: dict[str, Any] = {"parameters": "replica", "gradients": "replica", "optimizer": "replica"}

Measurement = tuple[float, float, float]  # the two columns of a fit, and the measured seconds


def calibrate(shape: Shape, precision: str, rows: Sequence[int], cores: int, sheet: Device) -> Device:
    """`sheet` with the measured speed of blocks and head of `shape`, of AdamW and of collectives.

    Every rank calls it in an initialised process group and gets the same. rows: tokens of a micro-batch, at least two
    numbers; cores: shared by all ranks of this node; the number of ranks where each has a device.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    ranks_a_core = max(1.0, dist.get_world_size() / cores)
    peak = replace(sheet, ranks_a_core=ranks_a_core).peak(precision)
    block_seconds, second_a_flop = fit([_block(shape, device, dtype, n) for n in rows])
    head_flops, head_seconds = _head(shape, device, dtype)
    parameters, optimizer_seconds = _optimizer(shape, device)
    measured = replace(
        sheet,
        name=f"measured {sheet.name}",
        memory=_memory(device),
        memory_rate=OPTIMIZER_BYTES * parameters / optimizer_seconds,
        attainable=1 / second_a_flop / peak,
        attainable_head=head_flops / head_seconds / peak,
        ranks_a_core=ranks_a_core,
        block_seconds=block_seconds,
        compiled=False,
        links=_links(device, sheet.node_devices),
    )
    return replace(measured, overheads=_overheads(shape, precision, rows[0], device, measured))


def fit(samples: Sequence[Measurement]) -> tuple[float, float]:
    """The a, b >= 0 that minimise the squared relative errors of seconds = a * first + b * second."""
    first, second, seconds = np.array(samples).T
    columns = np.stack([first / seconds, second / seconds], axis=1)
    a, b = np.linalg.lstsq(columns, np.ones(len(samples)), rcond=None)[0]
    if a < 0 or b < 0:  # the best non-negative pair then has one of them at 0
        factors = [float(column.sum() / (column @ column)) for column in columns.T]
        errors = [float(((column * factor - 1) ** 2).sum()) for column, factor in zip(columns.T, factors, strict=True)]
        a, b = (factors[0], 0.0) if errors[0] < errors[1] else (0.0, factors[1])
    return float(a), float(b)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Mean seconds of `work` on the slowest rank while all ranks do it."""
    taken = 0.0
    for number in range(1 + REPEATS):
        dist.barrier()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken += (time.perf_counter() - start) * (number > 0)
    slowest = torch.tensor(taken / REPEATS, dtype=torch.float64, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def _block(shape: Shape, device: torch.device, dtype: torch.dtype, rows: int) -> Measurement:
    """(1, floating-point operations, seconds) of forward and backward of a block on one document of `rows` tokens."""
    block = Block(shape).to(device, dtype)
    documents = Documents.of(Packed.of([[0] * rows]).to(device), shape, dtype)
    x = torch.randn(rows, shape.hidden, device=device, dtype=dtype, requires_grad=True)

    def work() -> None:
        block(x, documents).sum().backward()

    attention = 12 * shape.heads * shape.head_dim * rows / 2
    return 1.0, rows * (6 * block_matrices(shape) + attention), _seconds(work, device)


def _head(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """(floating-point operations, seconds) of the head and the loss of a chunk, forward and backward."""
    head = nn.Linear(shape.hidden, shape.vocab_size, bias=False, device=device, dtype=dtype)
    hidden = torch.randn(LOSS_ROWS, shape.hidden, device=device, dtype=dtype, requires_grad=True)
    labels = torch.zeros(LOSS_ROWS, dtype=torch.long, device=device)
    flops = 6.0 * shape.hidden * shape.vocab_size * LOSS_ROWS
    return flops, _seconds(lambda: summed_loss(hidden, head.weight, labels, LOSS_ROWS).backward(), device)


def _optimizer(shape: Shape, device: torch.device) -> tuple[int, float]:
    """(parameters, seconds) of clipping and AdamW."""
    weights = list(Block(shape).to(device).parameters())
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)  # as pretrain.schedule has it

    def work() -> None:
        nn.utils.clip_grad_norm_(weights, 1e-3)
        optimizer.step()

    return sum(weight.numel() for weight in weights), _seconds(work, device)


def _links(device: torch.device, node_devices: int) -> dict[str, Link]:
    """Every operation over groups of each size that fits into a node, all groups at once."""
    ranks = dist.get_world_size()
    sizes = [n for n in range(2, min(ranks, node_devices) + 1) if ranks % n == 0]
    groups = {size: dist.new_subgroups(size)[0] for size in sizes}
    links = {}
    for operation in ("gather", "scatter", "all_reduce", "all_to_all", "send"):
        samples = []
        for size, number in ((s, n) for s in sizes for n in SIZES):
            work = _collective(operation, groups[size], number, device)
            if operation != "send" or size == 2:
                samples.append((hops(operation, size), sent(operation, size, number), _seconds(work, device)))
        if samples:
            hop, second_a_byte = fit(samples)
            links[operation] = Link(hop, 1 / max(second_a_byte, 1e-15))
    return links


def _collective(operation: Operation, group: Any, number: int, device: torch.device) -> Callable[[], Any]:
    """A function that runs the collective on `number` bytes, as `traffic.Collective` counts them."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    whole = torch.zeros(number // 4 // size * size, device=device)
    part = torch.zeros(len(whole) // size, device=device)
    if operation == "gather":
        return lambda: dist.all_gather_single(whole, part, group=group)
    if operation == "scatter":
        return lambda: dist.reduce_scatter_single(part, whole, group=group)
    if operation == "all_reduce":
        return lambda: dist.all_reduce(whole, group=group)
    if operation == "all_to_all":
        into = torch.zeros_like(whole)
        return lambda: dist.all_to_all_single(into, whole, group=group)

    def send(tensor: Tensor = whole) -> None:
        if rank % 2 == 0:
            dist.send(tensor, group=group, group_dst=rank + 1)
        else:
            dist.recv(tensor, group=group, group_src=rank - 1)

    return send


def _overheads(shape: Shape, precision: str, rows: int, device: torch.device, measured: Device) -> dict[str, float]:
    """Seconds a block and micro-batch, by cause, that real steps of two blocks take beyond `measured`'s prediction."""
    kinds = {
        "shards": Layout(),
        "tensor": Layout(tp=2, **WHOLE),
        "sequence": Layout(tp=2, sequence_parallel=True, **WHOLE),
        "context": Layout(cp=2, **WHOLE),
    }
    small, overheads = replace(shape, layers=2), {}
    for kind, wanted in kinds.items():
        try:
            layout = wanted.on(dist.get_world_size())
            layout.require_model(small, small.vocab_size)
        except UserError:  # an odd number of ranks, or of heads
            continue
        assert layout.dp is not None
        step = OptimizerStep(rows, 2 * layout.dp, precision=precision, loss_chunk=LOSS_ROWS)  # type: ignore[arg-type]
        model = parallelize(CausalLM(small, LOSS_ROWS), layout, device, precision)
        windows = [(Packed.of([[0] * rows]), torch.zeros(rows, dtype=torch.long))] * step.micros(layout)
        seconds = _seconds(functools.partial(model.backward_windows, windows, 1e-6), device)
        times = predict(small, layout, step, measured).times
        passes = small.layers * step.micros(layout)
        overheads[kind] = max(0.0, seconds - (times.total - times.optimizer)) / passes
    return overheads


def _memory(device: torch.device) -> int:
    """Bytes a rank may count on: its device's, or its part of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    import psutil

    return psutil.virtual_memory().total // dist.get_world_size()
