"""A job states its stage, its settings and its command line without the packages that take seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = {
    *("torch", "ray", "transformers", "vllm", "deepspeed", "safetensors", "tokenizers", "tiktoken", "huggingface_hub"),
    *("numba", "scipy", "sklearn", "pandas", "pyarrow", "datasketch", "aiohttp", "tensorboard", "google"),
    *("trafilatura", "lxml", "bs4", "resiliparse", "fastwarc", "warcio", "detect_secrets", "pylint"),
}
CODE = """
import importlib, json, sys
from pathlib import Path

loaded = {}
for path in sorted(Path("jobs").rglob("*.py")):
    before, name = set(sys.modules), ".".join(path.with_suffix("").parts)
    importlib.import_module(name)
    loaded[name] = sorted({module.partition(".")[0] for module in set(sys.modules) - before})
print(json.dumps(loaded))
"""


@pytest.mark.process
def test_no_job_imports_a_heavy_package_before_it_works() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    loaded = json.loads(run.stdout)
    assert {"jobs.pipeline", "jobs.ppo", "jobs.explain", "jobs.frame.stages"} <= loaded.keys()
    assert {job: heavy for job, names in loaded.items() if (heavy := HEAVY & set(names))} == {}
