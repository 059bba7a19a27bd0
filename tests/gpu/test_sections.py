"""The sections of `make gpu` on a CPU, in tiny shapes: their logic, for no figure of them means anything here."""

import re
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import SECTIONS, VERDICTS
from benchmarks.gpu.cases import Skipped, Where, attempt
from benchmarks.gpu.kernels import KERNELS, ON_CPUS
from benchmarks.gpu.training_step import USUAL, Step, fitting, parsed, predicted_bytes
from ilm_ray.training.plan.devices import USABLE_MEMORY

ROOT = Path(__file__).parents[2]
GIB = 2**30
# What a machine with torch and Transformers has, and pydantic with what it needs.
PRESENT = {"numpy", "pydantic", "pyyaml", "safetensors", "fsspec", "transformers", "tokenizers"}
PRESENT |= {"torch", "sympy", "networkx"}
# Distribution -> module, where the names differ.
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn", "pyahocorasick": "ahocorasick", "beautifulsoup4": "bs4"}


def rows_of(section: str, leave_out: str = " never ") -> list[dict[str, Any]]:
    where = Where("cpu", tiny=True, ends_at=time.time() + 600)
    cases = import_module(SECTIONS[section]).cases(where)
    return [{"case": case.name, **attempt(case)} for case in cases if leave_out not in case.name]


@pytest.mark.ranks
@pytest.mark.parametrize("section", ["machine", "rates", "attention", "ppo", "resume", "step", "road"])
def test_every_section_runs_and_all_that_it_compares_holds(section: str) -> None:
    rows = rows_of(section, leave_out="compiled")  # half a minute of a C++ compiler: in the slow test below
    assert rows and not [row for row in rows if "failed" in row]
    verdicts = [row[name] for row in rows for name in VERDICTS if name in row]
    assert all(verdicts) and bool(verdicts) == (section in ("attention", "ppo", "resume", "step"))
    skipped = {row["case"]: row["skipped"] for row in rows if "skipped" in row}
    if section == "attention":
        assert {name.split(" compared")[0] for name in skipped if "compared" in name} == set(KERNELS) - set(ON_CPUS)
    elif section != "road":
        assert skipped == {}
    assert set(skipped.values()) <= {"needs a CUDA device"}


@pytest.mark.ranks
def test_a_resumed_training_ends_with_the_same_bits_on_a_cpu() -> None:
    for row in rows_of("resume"):
        assert row["bit_for_bit"] and row["repeats"] and row["difference"] == 0.0


def test_rows_are_halved_until_the_prediction_fits() -> None:
    for step in USUAL:
        for memory in (24 * GIB, 40 * GIB, 80 * GIB, 141 * GIB):
            try:
                fit = fitting(step, memory)
            except Skipped:
                assert predicted_bytes(Step(**{**vars(step), "rows": 1})) > USABLE_MEMORY * memory
                continue
            assert predicted_bytes(fit) <= USABLE_MEMORY * memory
            more = Step(**{**vars(step), "rows": 2 * fit.rows})
            assert fit == step or predicted_bytes(more) > USABLE_MEMORY * memory
    assert fitting(Step("0_5b"), 24 * GIB).size == "0_5b"  # something is measured on the smallest of them
    assert fitting(Step("1_8b"), 80 * GIB).rows == 4


def test_a_step_of_one_s_own() -> None:
    assert parsed("size=7b,rows=2,compile=yes,attention=flash4") == Step("7b", 4096, 2, "none", True, "flash4")
    for text in ("size", "seize=7b", "size=7b,rows="):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            parsed(text)


@pytest.mark.process
def test_the_sections_need_no_more_than_a_machine_with_torch_and_transformers_has() -> None:
    """On a borrowed card there is no time to install the rest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"], "vllm", "flash-attn"]
    names = {re.split(r"[^\w.-]", requirement)[0] for requirement in wanted} - PRESENT
    hidden = {MODULES.get(name, name.replace("-", "_")) for name in names}
    script = f"""
import importlib, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(name + " is hidden")
sys.meta_path.insert(0, Hidden())
import importlib.util
find = importlib.util.find_spec  # torch asks so for zstandard, which it can do without
importlib.util.find_spec = lambda name, package=None: None if name in {hidden!r} else find(name, package)
for module in {list(SECTIONS.values())!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1700)
def test_the_whole_command_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run([*command, "--minutes", "25"], cwd=ROOT, capture_output=True, text=True, timeout=1600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compiled" in done.stdout and (tmp_path / "gpu.json").exists()
