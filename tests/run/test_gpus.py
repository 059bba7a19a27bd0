"""The driver's own words, whole and broken, as nvidia-smi prints them."""

import pytest

from ilm_ray.run.gpus import MIB, OFFERED, Gpu, check_driver, parse_listing, weakest

H200 = """driver_version, name, memory.total [MiB], compute_cap
580.159.03, NVIDIA H200, 143771 MiB, 9.0
580.159.03, NVIDIA H200, 143771 MiB, 9.0
"""
OLD = """driver_version, name, memory.total [MiB], compute_cap
550.54.15, NVIDIA A100-SXM4-80GB, 81920 MiB, 8.0
"""
SHARED = """driver_version, name, memory.total [MiB], compute_cap
580.95.05, NVIDIA GB10, [N/A], 12.1
"""
BROKEN = [
    # The kernel's module is not loaded; after an update without a restart; a card fell off the bus; no card; a cut row.
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n",
    "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.65\n",
    "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU\n",
    "No devices were found\n",
    "driver_version, name, memory.total [MiB], compute_cap\n",
    "driver_version, name, memory.total [MiB], compute_cap\n" + ", ".join(["[Unknown Error]"] * 4) + "\n",
    "driver_version, name, memory.total [MiB], compute_cap\n580.65\n",
    "",
    "\n\n",
    "\0\ufffd,,,\n",
]


def test_gpus_are_listed_with_driver_and_memory() -> None:
    listing = parse_listing(H200)
    assert listing.gpus == (Gpu("NVIDIA H200", int(143_771 * MIB * OFFERED), (9, 0)),) * 2
    assert (listing.driver, listing.trouble) == ("580.159.03", "")
    assert parse_listing(SHARED).gpus == (Gpu("NVIDIA GB10", 0, (12, 1)),)
    assert parse_listing(H200.replace("\n", "\r\n")) == listing  # nvidia-smi of Windows, seen from its Linux


@pytest.mark.parametrize("output", BROKEN)
def test_a_broken_driver_is_wrong_in_its_own_words(output: str) -> None:
    listing = parse_listing(output)
    assert listing.gpus == () and listing.trouble
    finding = check_driver(listing)
    assert not finding.ok and listing.trouble in finding.observation and "\n" not in finding.line()
    assert "580" in finding.todo


def test_drivers_before_580_are_too_old_for_the_wheels() -> None:
    wrong = check_driver(parse_listing(OLD))
    assert "550.54.15" in wrong.observation and "580 or later" in wrong.todo
    for driver, well in (("579.99", False), ("580", True), ("580.65.06", True), ("610.1", True), ("99.1", False)):
        assert check_driver(parse_listing(OLD.replace("550.54.15", driver))).ok == well
    assert check_driver(parse_listing(H200)).line() == "ok    driver: 580.159.03, 2 GPU(s)"


def test_a_mixed_cluster_counts_as_its_weakest_card() -> None:
    a100, a6000 = Gpu("NVIDIA A100-SXM4-40GB", 40 * 2**30, (8, 0)), Gpu("NVIDIA RTX A6000", 48 * 2**30, (8, 6))
    assert weakest([a100, a6000]) == weakest([a6000, a100]) == a100
    assert weakest([a100, Gpu("Tesla T4", 10**12, (7, 5))]) == Gpu(a100.name, a100.memory, (7, 5))
    assert weakest([]) is weakest([Gpu("NVIDIA GB10", 0, (12, 1))]) is None
