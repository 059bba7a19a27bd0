"""The driver's own words, whole and broken, as nvidia-smi prints them."""

import pytest

from ilm_ray.run.gpus import Gpu, check_driver, parse_listing

H200 = """driver_version, name, memory.total [MiB]
580.159.03, NVIDIA H200, 143771 MiB
580.159.03, NVIDIA H200, 143771 MiB
"""
OLD = """driver_version, name, memory.total [MiB]
550.54.15, NVIDIA A100-SXM4-80GB, 81920 MiB
"""
SHARED = """driver_version, name, memory.total [MiB]
580.95.05, NVIDIA GB10, [N/A]
"""
BROKEN = [
    # The kernel's module is not loaded; after an update without a restart; a card fell off the bus; no card; a cut row.
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n",
    "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.65\n",
    "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU\n",
    "No devices were found\n",
    "driver_version, name, memory.total [MiB]\n",
    "driver_version, name, memory.total [MiB]\n[Unknown Error], [Unknown Error], [Unknown Error]\n",
    "driver_version, name, memory.total [MiB]\n580.65\n",
    "",
    "\n\n",
    "\0\ufffd,,,\n",
]


def test_gpus_are_listed_with_driver_and_memory() -> None:
    listing = parse_listing(H200)
    assert listing.gpus == (Gpu("580.159.03", "NVIDIA H200", 143_771),) * 2 and listing.trouble == ""
    assert parse_listing(SHARED).gpus == (Gpu("580.95.05", "NVIDIA GB10", None),)
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
