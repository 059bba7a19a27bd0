"""What the planner knows of hardware. Figures are those of data sheets; `attainable` alone was measured, by others."""

from dataclasses import dataclass

GB, GIB = 10**9, 2**30

# Of a device's memory what tensors may take: the rest is CUDA's context, NCCL's buffers and fragments. Ours.
USABLE_MEMORY = 0.9
# Of a link's rate what large transfers attain. NCCL counts 0.92 for its LL128 protocol (120 of 128 bytes are data) and
# less at scale; ours.
ATTAINABLE_LINK = 0.8
# Seconds a hop, and to begin (ring, Simple protocol): NCCL's own model, src/graph/tuning.cc (hwLat, baseLat).
HOP_INSIDE, HOP_BETWEEN, BEGIN = 3.4e-6, 9.6e-6, 8.4e-6
# As above for a tree, which NCCL has for all-reduce only.
TREE_HOP_INSIDE, TREE_HOP_BETWEEN = 28e-6, 50e-6


@dataclass(frozen=True)
class Device:
    """A kind of device in a kind of node; rates are in one direction."""

    name: str
    peak_flops: float  # dense, a second, in bfloat16
    memory: int  # bytes
    link: float  # bytes/s between a device and the others of its node
    node_link: float  # bytes/s between a node and the others, all its adapters together
    node_devices: int
    # Share of the peak that a step without communication reaches, recomputation not counted.
    attainable: float
    fused: bool = True  # kernels that normalise and attend without copies; AdamW over lists of tensors

    @property
    def usable_memory(self) -> int:
        """Bytes that tensors may take."""
        return int(self.memory * USABLE_MEMORY)


DEVICES = {
    device.name: device
    for device in (
        # NVIDIA H100 SXM data sheet: 989 TFLOP/s, NVLink 900 GB/s both ways; DGX H100: 8 x 400 Gb/s. On eight,
        # nanochat's 1.3B run reached 50.0%, torchtitan's Llama 8B 39%; Megatron-LM says 41 to 48%.
        Device("h100", 989e12, 80 * GIB, 450 * GB, 400 * GB, 8, 0.45),
        # The same chip with 141 GB.
        Device("h200", 989e12, 141 * GB, 450 * GB, 400 * GB, 8, 0.45),
        # NVIDIA A100 SXM data sheet: 312 TFLOP/s, NVLink 600 GB/s both ways. Network and share (183 TFLOP/s, eight
        # devices, no recomputation) are InternEvo's: 4 x 100 Gb/s RoCE, its doc/en/train_performance.md.
        Device("a100", 312e12, 80 * GIB, 300 * GB, 50 * GB, 8, 0.59),
        # A core with AVX-512 at 2.5 GHz, two fused multiply-adds of 16 numbers a cycle; 10 Gb/s Ethernet.
        Device("cpu", 160e9, 4 * GIB, 5 * GB, 1.25 * GB, 16, 0.5, fused=False),
    )
}


@dataclass(frozen=True)
class Group:
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
