"""vLLM's own classes, asked in a process of their own: it looks through all loaded modules, and stumbles over some that
other tests need."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

NEW_TOKENS = 24
_SCRIPT = """
import json, sys
import vllm

if __name__ == "__main__":  # the ranks of a tensor-parallel engine import this file again
    folder, prompts, ranks, kind, new_tokens, most = json.load(sys.stdin)
    common = {"trust_remote_code": True, "skip_tokenizer_init": True, "enforce_eager": True, "dtype": "float32",
              "max_model_len": most, "tensor_parallel_size": ranks}
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    if kind == "policy":
        engine = vllm.LLM(folder, **common)
        greedy = vllm.SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        said = [list(a.outputs[0].token_ids) for a in engine.generate(inputs, greedy, use_tqdm=False)]
    else:
        engine = vllm.LLM(folder, runner="pooling", **common)
        raw = vllm.PoolingParams(use_activation=False)
        answers = engine.encode(inputs, raw, pooling_task="token_classify", use_tqdm=False)
        said = [a.outputs.data.flatten().tolist() for a in answers]
    print(json.dumps([engine.llm_engine.model_config.architectures, said]))
"""


def ask_vllm(
    model: Path,
    prompts: Sequence[Sequence[int]],
    kind: Literal["policy", "reward"],
    folder: Path,
    ranks: int = 1,
    most: int = 256,
) -> tuple[list[str], list[list[float]]]:
    """Architectures of the folder `model`, and greedy continuations by NEW_TOKENS (policy) or a score at each token.

    most: tokens that its context has. Skips where vLLM is not installed. `folder` gets the script.
    """
    pytest.importorskip("vllm")
    script = folder / "vllm_script.py"
    script.write_text(_SCRIPT)
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    request = json.dumps([str(model), list(prompts), ranks, kind, NEW_TOKENS, most])
    done = subprocess.run(
        [sys.executable, str(script)], input=request, env=os.environ | env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    architectures, answers = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('[["')))
    return architectures, answers
