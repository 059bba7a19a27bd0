"""Devices and links as the planner knows them. Figures are those of data sheets; others measured `attainable`.

`plan.calibrate` replaces them by its measurements on the devices at hand, `plan.here` the memory by the device's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

GB, GIB = 10**9, 2**30

# Share of a device's memory for tensors: the rest is CUDA's context, NCCL's buffers and fragments. Our figure.
USABLE_MEMORY = 0.9
# Share of a link's rate that large transfers attain. NCCL counts 0.92 for its LL128 protocol (120 of 128 bytes are
# data) and less at scale; our figure.
ATTAINABLE_LINK = 0.8
# Seconds a hop, and to begin (ring, Simple protocol): NCCL's own model, src/graph/tuning.cc (hwLat, baseLat).
HOP_INSIDE, HOP_BETWEEN, BEGIN = 3.4e-6, 9.6e-6, 8.4e-6
# As above for a tree, which NCCL has for all-reduce only.
TREE_HOP_INSIDE, TREE_HOP_BETWEEN = 28e-6, 50e-6
BF16_CAPABILITY = (8, 0)  # NVIDIA's first architecture that multiplies bfloat16 (CUDA C++ Programming Guide)


@dataclass(frozen=True)
class Link:
    """Measured speed of a collective inside a node: seconds = hops * `hop` + bytes sent / `rate`."""

    hop: float  # seconds of a message to the next rank
    rate: float  # bytes/s that a rank sends


@dataclass(frozen=True)
class Device:
    """A kind of device in a kind of node; rates are in one direction."""

    name: str
    peak_flops: float  # dense, a second, in bfloat16
    memory: int  # bytes
    link: float  # bytes/s between a device and the others of its node
    node_link: float  # bytes/s between a node and the others, all its adapters together
    node_devices: int
    memory_rate: float  # bytes/s that a device reads or writes of its own memory
    # Share of the peak that a step without communication reaches, recomputation not counted.
    attainable: float
    fused: bool = True  # kernels that normalise and attend without copies; AdamW over lists of tensors
    overlap: bool = True  # communication runs beside computation; on a CPU both want the same cores
    ranks_a_core: float = 1.0  # ranks that share a core (or a device); one works while another waits
    # Only a calibration knows these.
    attainable_head: float | None = None  # of the head with its loss; None: as the blocks
    block_seconds: float = 0.0  # of a block's forward and backward, whatever the number of rows
    links: Mapping[str, Link] = field(default_factory=dict)  # by operation; those absent follow from the data sheet
    # Seconds a block and micro-batch on top of computing and sending: dispatch, hooks, waiting for each other. Keys are
    # the causes: shards, tensor, sequence, context.
    overheads: Mapping[str, float] = field(default_factory=dict)
    fp32_flops: float | None = None  # dense, a second, in fp32 without TF32; None: half of `peak_flops`
    # `attainable` is that of blocks that torch.compile made: without it pointwise work and dispatch come on top.
    compiled: bool = False

    @property
    def usable_memory(self) -> int:
        """Bytes that tensors may take."""
        return int(self.memory * USABLE_MEMORY)

    def peak(self, precision: str) -> float:
        """Floating-point operations a second of a rank in `precision` (bf16 or fp32)."""
        half = self.peak_flops / 2 if self.fp32_flops is None else self.fp32_flops
        return (self.peak_flops if precision == "bf16" else half) / self.ranks_a_core


@dataclass(frozen=True)
class RankGroup:
    """Ranks that talk to each other: `size` of them, `stride` apart in the order of ranks, which fills node by node."""

    size: int
    stride: int

    def in_node(self, device: Device) -> int:
        """Members in one node, at least 1."""
        return max(1, min(self.size, device.node_devices // self.stride))

    def ring_rate(self, device: Device) -> float:
        """Bytes/s from a member to the next: a ring leaves a node once, with the adapters of all members there."""
        inside = self.in_node(device)
        between = device.node_link * inside / device.node_devices
        return ATTAINABLE_LINK * (device.link if inside == self.size else min(device.link, between))

    def direct_rate(self, device: Device) -> float:
        """Bytes/s from a member to any other, each member with its own part of the node's adapters."""
        alone = self.in_node(device) == self.size
        return ATTAINABLE_LINK * (device.link if alone else device.node_link / device.node_devices)

    def ring_latency(self, device: Device) -> float:
        """Seconds for a byte to go once around."""
        nodes = -(-self.size // self.in_node(device))
        return BEGIN + (nodes - 1) * HOP_BETWEEN + (self.size - nodes) * HOP_INSIDE

    def tree_latency(self, device: Device) -> float:
        """Seconds for a byte up and down a tree over nodes, each of them a chain (NCCL)."""
        inside = self.in_node(device)
        depth = max(0, -(-self.size // inside) - 1).bit_length()
        return BEGIN + 2 * ((inside - 1) * TREE_HOP_INSIDE + depth * TREE_HOP_BETWEEN)
