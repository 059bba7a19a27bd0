"""vLLM accepts the engines of every preset on CUDA: its real configuration code on a platform that is faked.

In a process of its own, for the platform is chosen once and kept. No kernel runs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.ppo.engines import VLLM_ENV, choose_backend

CHECK = """
import json, sys, tempfile, types
from pathlib import Path

for name in ("vllm._C_stable_libtorch", "vllm._moe_C_stable_libtorch", "vllm._moe_C"):  # compiled for CUDA
    sys.modules[name] = types.ModuleType(name)
import vllm.platforms
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability


class Card(NonNvmlCudaPlatform):
    @classmethod
    def get_device_capability(cls, device_id=0): return DeviceCapability(9, 0)
    @classmethod
    def get_device_name(cls, device_id=0): return "NVIDIA H100 80GB HBM3"
    @classmethod
    def get_device_total_memory(cls, device_id=0): return 80 * 2**30
    @classmethod
    def is_fully_connected(cls, ids): return True
    @classmethod
    def device_count(cls): return 8
    def is_cumem_allocator_available(self): return True  # compiled for CUDA too


vllm.platforms._current_platform = Card()
import vllm.config.vllm, vllm.triton_utils, vllm.triton_utils.importing
vllm.triton_utils.importing.HAS_TRITON = vllm.triton_utils.HAS_TRITON = vllm.config.vllm.HAS_TRITON = True
import torch
from vllm.config import set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.attention.selector import get_attn_backend

from actors.ppo.engines import RolloutSettings, vllm_arguments
from ilm_ray.config import load_config
from ilm_ray.model.families import served_config
from ilm_ray.training.plan.alignment_memory import engine_room, work_of

rows = []
for preset in ("nano", "1_8b", "7b", "20b"):
    for colocate, gpus in ((False, 1), (False, 2), (True, 1)):
        config = load_config(preset, None, [f"ppo.colocate={colocate}", f"ppo.engine_gpus={gpus}"])
        ppo, work = config.ppo, work_of(config)
        settings = RolloutSettings(
            work.shape, "vllm", ppo.precision, ppo.max_prompt_tokens + ppo.max_new_tokens, ppo.max_new_tokens,
            ppo.temperature, ppo.top_p, [1], 1, 60.0, gpus, engine_room(work, ppo, 8) if colocate else None, colocate,
        )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(served_config(work.shape)))
            arguments = vllm_arguments(settings, folder, 80 * 2**30)
            made = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
        with set_current_vllm_config(made):
            dtype = getattr(torch, arguments["dtype"])
            backend = get_attn_backend(head_size=work.shape.head_dim, dtype=dtype, kv_cache_dtype="auto").get_name()
        rows.append({
            "preset": preset, "colocate": colocate, "gpus": gpus, "attention": backend,
            "eager": made.model_config.enforce_eager, "graphs": str(made.compilation_config.cudagraph_mode),
            "second_runner": made.use_v2_model_runner, "sleep": made.model_config.enable_sleep_mode,
            "cache": made.cache_config.kv_cache_memory_bytes, "share": made.cache_config.gpu_memory_utilization,
            "executor": made.parallel_config.distributed_executor_backend,
            "parallel": made.parallel_config.tensor_parallel_size, "length": made.model_config.max_model_len,
            "prefill": made.scheduler_config.max_num_batched_tokens, "sampled": made.scheduler_config.max_num_seqs,
        })
print("ROWS" + json.dumps(rows))
"""


@pytest.mark.process
def test_vllm_takes_the_engines_of_every_preset_on_cuda() -> None:
    if choose_backend("auto") != "vllm":
        pytest.skip("vLLM is not installed: run `make setup`")
    env = {**os.environ, **VLLM_ENV, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", CHECK], env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ROWS")]
    rows = json.loads(line.removeprefix("ROWS"))
    assert len(rows) == 12
    for row in rows:
        print(row)
        assert not row["eager"] and row["graphs"] != "CUDAGraphMode.NONE" and not row["second_runner"]
        assert (row["executor"], row["parallel"]) == (("mp", 2) if row["gpus"] == 2 else ("uni", 1))
        assert row["sleep"] == row["colocate"] == (row["cache"] is not None)
        assert 0 < row["share"] <= 0.9
        # The sizes that the memory function counts with.
        assert row["prefill"] <= 16_384 and row["sampled"] <= 1024
    # A build for CPUs brings no FlashAttention, which vLLM prefers in half precision.
    assert {row["attention"] for row in rows} <= {"FLASH_ATTN", "TRITON_ATTN"}
