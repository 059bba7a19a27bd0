"""Names of cards: what CUDA, the driver and Ray call them, and what a card without a data sheet becomes."""

import pytest
import torch

from ilm_ray.training.plan.cards import DEVICES, UNKNOWN, kind_of, known_device, peak_flops
from ilm_ray.training.plan.devices import GIB
from ilm_ray.training.plan.here import matmul_flops, weakest

# As torch.cuda.get_device_name, nvidia-smi and Ray's accelerator types have them.
NAMES = {
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "A100-40G": "a100-40gb",
    "NVIDIA A100-SXM4-80GB": "a100",
    "A100-80G": "a100",
    "A100": "a100",
    "NVIDIA A100 80GB PCIe": "a100-pcie",
    "NVIDIA A100-PCIE-40GB": "a100-pcie",
    "NVIDIA A800-SXM4-80GB": "a800",
    "NVIDIA H100 80GB HBM3": "h100",
    "H100": "h100",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H100 80GB HBM2e": "h100-pcie",
    "NVIDIA H100 NVL": "h100-nvl",
    "NVIDIA H800": "h800",
    "NVIDIA H20": "h20",
    "NVIDIA H200": "h200",
    "NVIDIA H200 NVL": "h200-nvl",
    "NVIDIA GH200 480GB": "gh200",
    "NVIDIA B200": "b200",
    "NVIDIA B300 SXM6 AC": "b200",
    "NVIDIA GB200": "gb200",
    "NVIDIA L4": "l4",
    "NVIDIA L40": "l40",
    "NVIDIA L40S": "l40s",
    "NVIDIA A10": "a10",
    "NVIDIA A10G": "a10g",
    "NVIDIA A30": "a30",
    "NVIDIA A40": "a40",
    "NVIDIA RTX A6000": "a6000",
    "NVIDIA RTX 6000 Ada Generation": "rtx6000-ada",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtxpro6000",
    "RTX-PRO-6000": "rtxpro6000",
    "NVIDIA GeForce RTX 3090": "rtx3090",
    "NVIDIA GeForce RTX 3090 Ti": "rtx3090",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA GeForce RTX 5090": "rtx5090",
    "Tesla T4": None,
    "Tesla V100-SXM2-16GB": None,
    "Quadro RTX 6000": None,  # an older chip than the Ada one
    "NVIDIA A1000": None,
    "AMD Instinct MI300X": None,
}


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_a_card_is_known_by_its_name(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind
    if kind is not None:
        assert known_device(name) == DEVICES[kind] and peak_flops(name) == DEVICES[kind].peak_flops
        assert known_device(name, 7 * GIB).memory == 7 * GIB, "what the device says goes first"


def test_every_kind_has_a_name_and_is_one() -> None:
    assert set(DEVICES) - {"cpu"} == set(NAMES.values()) - {None}
    assert all(kind_of(kind) == kind for kind in DEVICES)


def test_an_unknown_card_is_planned_as_a_slow_one_and_says_so() -> None:
    device, least = known_device("Brand New 9000", 48 * GIB), DEVICES[UNKNOWN]
    assert device.memory == 48 * GIB and device.peak_flops == least.peak_flops
    assert "no data sheet" in device.name and peak_flops("Brand New 9000") is None
    trains = [card for kind, card in DEVICES.items() if kind not in ("cpu", "a10g", "l4")]  # these have less memory
    assert all(least.peak_flops * least.memory_rate <= card.peak_flops * card.memory_rate for card in trains)


def test_peaks_of_a_card_are_in_order() -> None:
    """Without tensor cores fp32 is far below half of bfloat16 on server cards; a CPU has half."""
    for kind, card in DEVICES.items():
        assert 1 < card.peak("bf16") / card.peak("fp32") < 35, kind
    assert DEVICES["h100"].peak("fp32") < DEVICES["h100"].peak("bf16") / 14
    assert DEVICES["cpu"].peak("fp32") == DEVICES["cpu"].peak("bf16") / 2
    # The boards in slots are slower than the modules, and the small memory is small.
    for board, module in (("h100-pcie", "h100"), ("h100-nvl", "h100"), ("h200-nvl", "h200")):
        assert DEVICES[board].peak_flops < DEVICES[module].peak_flops and DEVICES[board].link < DEVICES[module].link
    assert DEVICES["a100-40gb"].memory < DEVICES["a100"].memory / 1.9
    assert DEVICES["gh200"].memory < DEVICES["h200"].memory


def test_a_product_of_matrices_is_measured() -> None:
    """A peak that this very machine cannot exceed: 64 operations a cycle and core at 10 GHz."""
    assert 1e7 < matmul_flops(torch.device("cpu"), torch.float32, side=128, repeats=2) < 64e10 * 256


def test_unlike_devices_are_planned_as_the_weakest() -> None:
    devices = [DEVICES["h100"], known_device("NVIDIA A100-SXM4-40GB"), known_device("NVIDIA A100-SXM4-80GB", 60 * GIB)]
    chosen = weakest(devices)
    assert chosen.peak_flops == DEVICES["a100"].peak_flops and chosen.memory == DEVICES["a100-40gb"].memory
    assert weakest(reversed(devices)) == chosen
