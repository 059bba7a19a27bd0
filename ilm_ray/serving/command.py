"""Settings of a server, which follow from the model and the devices at hand, and its command line."""

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config.serving import ServeConfig
from ilm_ray.serving.limits import context_of, read_limits

GRACE_S = 20.0  # for running answers, when the server stops
VLLM_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class ServerSettings:
    """Model, address and devices of a server. folder: weights, config.json, tokenizer.json with its chat template."""

    folder: Path
    name: str  # of the model in requests
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    context: int = 4096  # tokens of prompt and answer together
    dtype: str = "fp32"  # or bf16
    cache_gib: int = 1  # keys and values, on a CPU
    gpus: int = 0  # that share the model by tensor parallelism; 0: it runs on a CPU
    gpu_memory_share: float = 0.9
    overrides: dict[str, Any] = field(default_factory=dict)  # of config.json, for vLLM


@dataclass(frozen=True)
class Devices:
    """GPUs that a server takes, and the type of its weights."""

    gpus: int
    dtype: str


def require_vllm() -> None:
    """Raises UserError where vLLM, which serves every model, is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("a model is served by vLLM, which is not installed: run `make setup`, or install vllm")


def devices_of(config: ServeConfig, gpus: int) -> Devices:
    """The devices and the type by the settings, on a node with `gpus` GPUs: one GPU and bf16 where there is one.

    Raises UserError where more GPUs are set than the node has.
    """
    taken = min(gpus, 1) if config.gpus is None else config.gpus
    if taken > gpus:
        raise UserError(f"serve.gpus={taken} but this node has {gpus}; set at most serve.gpus={gpus}")
    return Devices(taken, config.dtype or ("bf16" if taken else "fp32"))


def server_settings(
    config: ServeConfig, folder: Path, name: str, devices: Devices, setting: str = "serve.context"
) -> ServerSettings:
    """Settings of a server of the model in `folder`. setting: the name of `config.context`, for errors.

    Raises UserError where the model does not reach so far, or cannot be shared by so many GPUs.
    """
    limits, gpus = read_limits(folder), devices.gpus
    context, overrides = context_of(config.context, setting, limits, gpus > 0)
    if gpus and limits.heads % gpus:
        fewer = max(n for n in range(1, gpus) if limits.heads % n == 0)
        raise UserError(
            f"serve.gpus={gpus} cannot share the model's {limits.heads} attention heads evenly; set serve.gpus={fewer}"
        )
    return ServerSettings(
        folder,
        name,
        config.host,
        config.port,
        context,
        devices.dtype,
        config.cache_gib,
        gpus,
        overrides=overrides,
    )


def command(settings: ServerSettings) -> list[str]:
    """The command line of the child that serves."""
    s = settings
    options: dict[str, Any] = {
        "--model": s.folder,
        "--host": s.host,
        "--port": s.port,
        "--served-model-name": s.name,
        "--dtype": VLLM_DTYPES[s.dtype],
        "--max-model-len": s.context,
        "--gpu-memory-utilization": s.gpu_memory_share,
        "--max-logprobs": 20,
        "--middleware": "ilm_ray.serving.page.ChatPage",
        "--shutdown-timeout": int(GRACE_S / 2),
    }
    if s.gpus > 1:  # ranks are processes of the child: Ray has booked their GPUs for its parent
        options |= {"--tensor-parallel-size": s.gpus, "--distributed-executor-backend": "mp"}
    if s.overrides:
        options["--hf-overrides"] = json.dumps(s.overrides)
    words = [str(word) for pair in options.items() for word in pair]
    # CUDA graphs pay for their capture; a CPU has none, and compiling there takes minutes.
    eager = [] if s.gpus else ["--enforce-eager"]
    # Not vLLM's command line program, which does not start under the CPU package's name.
    module = "vllm.entrypoints.launchers.api_server.entry"
    return [sys.executable, "-m", module, *words, *eager, "--disable-fastapi-docs"]


def environment(settings: ServerSettings) -> dict[str, str]:
    """Variables of the child beside its parent's."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",  # the application's engine is always a separate process
        "VLLM_CPU_KVCACHE_SPACE": str(settings.cache_gib),
    }
    # A child that booked no GPU sees none: another's would be in use.
    return variables if settings.gpus else variables | {"CUDA_VISIBLE_DEVICES": ""}
