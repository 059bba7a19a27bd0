"""Data sheets of devices, and the device that a name of CUDA's, Ray's or the driver's means.

Peaks are dense, in bfloat16 with sums in fp32, and in fp32 without TF32; rates of memory and links are those of
NVIDIA's data sheets and architecture papers. Memory is the capacity that CUDA shows (PyTorch's out-of-memory messages
name it), which error correction and the driver make smaller than the number on the box.
"""

import re
from dataclasses import replace

from ilm_ray.training.plan.devices import GB, GIB, Device

T = 10**12

# Our figures where a data sheet has none. A board in a PCIe slot reaches the others of its node through it; GeForce
# boards cannot address each other's memory, so that every byte crosses the host's. Such nodes have 100 Gb/s adapters.
PCIE_4, PCIE_5, THROUGH_HOST_4, THROUGH_HOST_5 = 32 * GB, 64 * GB, 16 * GB, 32 * GB
ETHERNET = 12.5 * GB
# On eight H100, nanochat's 1.3B run reached 50.0%, torchtitan's Llama 8B 39%; Megatron-LM says 41 to 48%. All of them
# compile their blocks, or have kernels that do as much. Taken for every card that nobody measured.
ATTAINABLE = 0.45


def _card(
    name: str, bf16: float, fp32: float, memory: float, rate: float, link: float, node_link: float,
    node_devices: int = 8, attainable: float = ATTAINABLE,
) -> Device:  # fmt: skip
    """bf16, fp32: TFLOP/s; memory: GiB; rate of the memory: GB/s; link, node_link: bytes/s."""
    return Device(
        name, bf16 * T, int(memory * GIB), link, node_link, node_devices, rate * GB, attainable,
        fp32_flops=fp32 * T, compiled=True,
    )  # fmt: skip


DEVICES = {
    device.name: device
    for device in (
        # NVLink 900 GB/s both ways; DGX H100: 8 x 400 Gb/s.
        _card("h100", 989, 67, 79.1, 3350, 450 * GB, 400 * GB),
        _card("h100-pcie", 756, 51, 79.1, 2039, PCIE_5, 50 * GB),
        _card("h100-nvl", 835, 60, 93.1, 3938, PCIE_5, 50 * GB),
        _card("h800", 989, 67, 79.1, 3350, 200 * GB, 400 * GB),  # NVLink 400 GB/s both ways
        _card("h20", 148, 44, 95.0, 4000, 450 * GB, 400 * GB),
        _card("h200", 989, 67, 139.7, 4800, 450 * GB, 400 * GB),
        _card("h200-nvl", 836, 60, 139.7, 4800, PCIE_5, 50 * GB),
        _card("gh200", 989, 67, 94.5, 4000, 450 * GB, 50 * GB, node_devices=1),  # one to a host; 96 GB of HBM3
        _card("b200", 2250, 80, 178.3, 8000, 900 * GB, 400 * GB),
        _card("gb200", 2500, 80, 184.0, 8000, 900 * GB, 200 * GB, node_devices=4),  # a tray of an NVL72 rack
        # NVLink 600 GB/s both ways. Network and share (183 TFLOP/s, eight devices, no recomputation) are InternEvo's:
        # 4 x 100 Gb/s RoCE, its doc/en/train_performance.md.
        _card("a100", 312, 19.5, 79.1, 2039, 300 * GB, 50 * GB, attainable=0.59),
        _card("a100-40gb", 312, 19.5, 39.3, 1555, 300 * GB, 50 * GB, attainable=0.59),
        _card("a100-pcie", 312, 19.5, 39.3, 1555, PCIE_4, ETHERNET, attainable=0.59),
        _card("a800", 312, 19.5, 79.1, 2039, 200 * GB, 50 * GB, attainable=0.59),  # NVLink 400 GB/s both ways
        _card("l40s", 362, 91.6, 44.3, 864, PCIE_4, ETHERNET),
        _card("l40", 181, 90.5, 44.3, 864, PCIE_4, ETHERNET),
        _card("l4", 121, 30.3, 22.0, 300, PCIE_4, ETHERNET),
        _card("a10", 125, 31.2, 22.0, 600, PCIE_4, ETHERNET),
        _card("a10g", 70, 35, 22.0, 600, PCIE_4, ETHERNET),
        _card("a30", 165, 10.3, 23.5, 933, PCIE_4, ETHERNET),
        _card("a40", 149.7, 37.4, 44.3, 696, PCIE_4, ETHERNET),
        _card("a6000", 154.8, 38.7, 44.3, 768, PCIE_4, ETHERNET),  # with error correction on
        _card("rtx6000-ada", 364.2, 91.1, 44.3, 960, PCIE_4, ETHERNET),  # likewise
        _card("rtxpro6000", 503.8, 125, 94.9, 1792, PCIE_5, ETHERNET),
        _card("rtx3090", 71, 35.6, 23.6, 936, THROUGH_HOST_4, ETHERNET),
        _card("rtx4090", 165.2, 82.6, 23.6, 1008, THROUGH_HOST_4, ETHERNET),
        _card("rtx5090", 209.5, 104.8, 31.3, 1792, THROUGH_HOST_5, ETHERNET),
        # A core with AVX-512 at 2.5 GHz, two fused multiply-adds of 16 numbers a cycle; 10 Gb/s Ethernet.
        Device("cpu", 160e9, 4 * GIB, 5 * GB, 1.25 * GB, 16, 10 * GB, 0.5, fused=False, overlap=False),
    )
}  # fmt: skip

# Word that a name must have, word that it must have too -> kind; the first row that fits counts. Volta and older are
# absent: torch's wheels for CUDA 13 have no code for them. So are AMD's, which this project was never installed on.
_NAMES = (
    ("gh200", "", "gh200"),
    ("gb200", "", "gb200"),
    ("gb300", "", "gb200"),  # as fast in bfloat16, with more memory
    ("b200", "", "b200"),
    ("b300", "", "b200"),  # likewise
    ("h200", "nvl", "h200-nvl"),
    ("h200", "", "h200"),
    ("h100", "nvl", "h100-nvl"),
    ("h100", "pcie", "h100-pcie"),
    ("h100", "hbm2e", "h100-pcie"),  # "NVIDIA H100 80GB HBM2e" is the PCIe board
    ("h100", "", "h100"),
    ("h800", "", "h800"),
    ("h20", "", "h20"),
    ("a100", "pcie", "a100-pcie"),
    ("a100", "40gb?", "a100-40gb"),  # Ray says "A100-40G"
    ("a100", "", "a100"),
    ("a800", "", "a800"),
    ("l40s", "", "l40s"),
    ("l40", "", "l40"),
    ("l4", "", "l4"),
    ("a10g", "", "a10g"),
    ("a10", "", "a10"),
    ("a30", "", "a30"),
    ("a40", "", "a40"),
    ("a6000", "", "a6000"),
    ("rtx 6000", "ada", "rtx6000-ada"),
    ("rtx pro 6000", "", "rtxpro6000"),
    ("rtx 3090", "", "rtx3090"),
    ("rtx 4090", "", "rtx4090"),
    ("rtx 5090", "", "rtx5090"),
)
UNKNOWN = "rtx3090"  # the least of the cards that train in bfloat16: assumed of a card without a data sheet here


def kind_of(name: str) -> str | None:
    """The kind in `DEVICES` that a name means ("NVIDIA H100 80GB HBM3", "A100-SXM4-40GB", "h200"); None: none."""
    if name.lower() in DEVICES:
        return name.lower()
    words = " ".join(re.split(r"[^a-z0-9]+", name.lower()))

    def has(word: str) -> bool:
        return re.search(rf"\b{word}\b", words) is not None

    return next((kind for model, other, kind in _NAMES if has(model) and (not other or has(other))), None)


def known_device(name: str | None, memory: int | None = None) -> Device:
    """The device by CUDA's, the driver's or Ray's name of it; None: a CPU.

    memory: bytes that the device itself says it has; None: those of its data sheet. A card without a data sheet has
    the speed of the slowest known one and, unless `memory` says more, its memory; its name says so.
    """
    if name is None:
        device = DEVICES["cpu"]
    elif (kind := kind_of(name)) is not None:
        device = DEVICES[kind]
    else:
        device = replace(DEVICES[UNKNOWN], name=f"{name} (no data sheet: planned as a slow card)")
    return device if memory is None else replace(device, memory=memory)


def peak_flops(name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a CUDA device by its name; None where its data sheet is not among `DEVICES`."""
    kind = kind_of(name)
    return None if kind is None else DEVICES[kind].peak_flops
