"""FP8 is off, and where it cannot be had it is refused in one line that says what to change."""

import importlib.machinery
import importlib.util
from typing import Any

import pytest
import torch

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.layout import Layout
from ilm_ray.training.parallel.float8 import require_float8

CARD = torch.device("cuda", 0)


def _refusal(*arguments: Any) -> str | None:
    try:
        require_float8(*arguments)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


@pytest.mark.parametrize("preset", ["nano", "1_8b", "7b", "20b"])
def test_it_is_off_in_every_preset(preset: str) -> None:
    assert not load_config(preset, None, []).training.fp8


def test_a_cpu_and_an_older_card_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "this is a CPU" in str(_refusal(Layout(), "bf16", torch.device("cpu")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert "this is NVIDIA A100-SXM4-80GB" in str(_refusal(Layout(), "bf16", CARD))


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_a_card_that_has_it_needs_torchao_and_a_fitting_layout(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install torchao" in str(_refusal(Layout(), "bf16", CARD))
    assert "precision=bf16" in str(_refusal(Layout(), "fp32", CARD))
    assert "set tp=1" in str(_refusal(Layout(tp=2), "bf16", CARD))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    assert _refusal(Layout(), "bf16", CARD) is None
