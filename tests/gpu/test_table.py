"""README's figures of GPUs are those of gpu.json, and it says so where there is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.table import BEGIN, END, NOT_YET, replaced, tables

ROOT = Path(__file__).parents[2]
MEASURED: dict[str, Any] = {
    "tiny": False,
    "sections": {
        "machine": [
            {"case": "machine", "device": "NVIDIA H100", "driver": "580.65", "cuda": "13.0", "commit": "abc",
             "date": "2026-12-01T00:00:00", "packages": {"torch": "2.13.0", "vllm": None}}
        ],
        "attention": [
            {"case": "torch compared", "forward_error": 0.003, "gradient_error": 0.5, "holds": False, "repeats": True},
            {"case": "flash2 compared", "skipped": "not installed: No module named 'flash_attn'"},
            {"case": "flash3 compared", "failed": "RuntimeError: a | b"},
        ],
        "step": [
            {"case": "0_5b", "rows": 4, "tokens_s": 123456.7, "mfu": 0.41, "peak_gib": 14.2, "predicted_gib": 14.0,
             "holds": True, "memory_holds": True}
        ],
    },
}  # fmt: skip


def test_readme_has_the_tables_of_the_file_that_lies_beside_it() -> None:
    readme, file = (ROOT / "README.md").read_text(), ROOT / "gpu.json"
    result = json.loads(file.read_text()) if file.exists() else None
    assert replaced(readme, result) == readme, "run `python -m benchmarks.gpu.table --write`"
    assert (NOT_YET in readme) == (result is None)


def test_good_and_bad_figures_and_reasons_are_all_shown() -> None:
    text = tables(MEASURED)
    assert "NVIDIA H100; driver 580.65; CUDA 13.0; torch 2.13.0; commit abc, 2026-12-01." in text
    assert "| torch compared | 0.003 | 0.5 | yes | beyond its bound |" in text
    assert "| 0_5b | 4 | 123,457 | 0.41 | 14.2 | 14 | holds; memory as predicted |" in text
    assert "failed: RuntimeError: a / b" in text
    assert "Skipped: attention: flash2 compared (not installed: No module named 'flash_attn')." in text
    for table in (part for part in text.split("\n\n") if part.startswith("|")):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_figures_of_tiny_shapes_never_reach_the_readme() -> None:
    readme = f"before {BEGIN}\nold\n{END} after"
    assert replaced(readme, None) == f"before {BEGIN}\n{NOT_YET}\n{END} after"
    with pytest.raises(ValueError, match="make gpu"):
        replaced(readme, MEASURED | {"tiny": True})
    with pytest.raises(ValueError, match="lacks"):
        replaced("no comments", None)
