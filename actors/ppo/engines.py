"""The two engines behind one interface: vLLM, and the embedded torch generator."""

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from actors.ppo.channel import Channel
from actors.ppo.temperature import Temperature, is_greedy
from actors.ppo.vllm_worker import joined
from actors.ppo.weights import Arrived, Held, WeightMessage
from ilm_ray.alignment.ppo.digest import digests
from ilm_ray.base.errors import UserError
from ilm_ray.model.families import served_config
from ilm_ray.model.generate import generate
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.model.names import from_engine, to_engine
from ilm_ray.serving.vllm_plugin import allow_amx
from ilm_ray.training.plan.alignment_memory import EngineRoom

Completion = tuple[list[int], list[float]]

# vLLM reads these when it is imported. One process: no child to lose. 1 GiB of cache is plenty on a CPU, and vLLM's
# thread binding would take the cores from the ranks beside it. The first model runner: on a CPU there is no other, so
# it is the one that every test has run; vLLM 0.32 would take its second on CUDA.
VLLM_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class RolloutSettings:
    """Settings of an engine; lengths in tokens."""

    shape: Shape
    backend: str  # vllm or torch
    precision: str  # fp32 or bf16
    max_tokens: int  # prompt and response together
    max_new_tokens: int
    temperature: float
    top_p: float
    stop_ids: list[int]
    seed: int
    deadline_s: float  # for a bucket of weights to arrive
    gpus: int = 1  # that the engine spans; without GPUs processes that share its matrices
    room: EngineRoom | None = None  # None: its GPUs are its own, vLLM sizes the cache
    sleeps: bool = False  # leaves its GPU to others between rollouts

    @property
    def drawn_at(self) -> float:
        """Temperature to draw with from logits that are divided by the real one already; 0: the likeliest token."""
        return 0.0 if is_greedy(self.temperature) else 1.0


def choose_backend(backend: str, setting: str = "ppo.rollout_backend") -> str:
    """auto -> vllm where it is installed, else torch. Raises UserError where vllm is demanded and absent."""
    installed = importlib.util.find_spec("vllm") is not None
    if backend == "vllm" and not installed:
        raise UserError(f"{setting}=vllm but vLLM is not installed; install it or set it to torch")
    return "torch" if backend == "torch" or not installed else "vllm"


class Engine(Protocol):
    """Interface of the two engines."""

    def join_channel(self, place: tuple[str, int], first: int, members: int) -> None:
        """Become members `first` and following of a channel that brings weights."""

    def load(self, message: WeightMessage) -> Arrived:
        """Replace all weights (LLaMA names), awake afterwards; returns the digests of the arrived ones."""

    def held(self) -> Held:
        """Digests of the weights that it holds now."""

    def sleep(self) -> None:
        """Give up weights and cache until the next `load`."""

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        """New tokens and their log-probabilities under the untruncated distribution at the settings' temperature."""


class TorchEngine:
    """An engine in plain torch, for where vLLM is not installed; repeats bit for bit on a CPU."""

    def __init__(self, settings: RolloutSettings) -> None:
        self.settings = settings
        self.channel: Channel | None = None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.model = CausalLM(settings.shape).to(self.device, dtype).requires_grad_(False)
        Temperature(self.model, settings.temperature)

    def join_channel(self, place: tuple[str, int], first: int, members: int) -> None:
        if self.channel is not None:
            self.channel.close()
        self.channel = Channel(place, first, members, self.device, self.settings.deadline_s)

    def load(self, message: WeightMessage) -> Arrived:
        if next(self.model.parameters()).is_meta:
            self.model.to_empty(device=self.device)
        arrived, missing = Arrived(1), set(self.model.state_dict())
        for bucket in message.open(self.settings.deadline_s, self.channel):
            part = from_engine(dict(arrived.watch([bucket], self.device)), self.model.shape)
            missing -= part.keys()
            if unknown := self.model.load_state_dict(part, strict=False).unexpected_keys:
                raise ValueError(f"weights that the model does not have: {', '.join(unknown)}")
        if missing:
            raise ValueError(f"weights are missing: {', '.join(sorted(missing))}")
        return arrived

    def held(self) -> Held:
        return Held(digests(to_engine(dict(self.model.state_dict()), self.model.shape)))

    def sleep(self) -> None:
        self.model.to("meta")

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        s = settings
        return generate(self.model, prompts, s.max_new_tokens, s.drawn_at, s.top_p, s.stop_ids, seed)


def vllm_arguments(settings: RolloutSettings, folder: str, gpu_memory: int | None) -> dict[str, Any]:
    """Arguments of vLLM's engine; folder: has config.json; gpu_memory: bytes of a GPU, None without one.

    Graphs are for GPUs: weights are reloaded in place, so they stay valid. On a shared GPU the cache is stated, for
    vLLM would count memory that others allocate meanwhile as its own. The share of the memory then only has to be free
    when the engine starts, which may be again when all others are there.
    """
    arguments: dict[str, Any] = {
        "model": folder,
        "load_format": "dummy",  # weights arrive before the first prompt
        "skip_tokenizer_init": True,
        "enforce_eager": gpu_memory is None,
        "max_model_len": settings.max_tokens,
        "dtype": "bfloat16" if settings.precision == "bf16" else "float32",
        "seed": settings.seed,
        "gpu_memory_utilization": 0.9,
        "worker_extension_cls": "actors.ppo.vllm_worker.EngineWorker",
    }
    if settings.gpus > 1:
        # Processes of this actor, which sees all the GPUs; left alone, vLLM would start Ray actors of its own.
        arguments |= {"tensor_parallel_size": settings.gpus, "distributed_executor_backend": "mp"}
    if gpu_memory is not None and settings.room is not None:
        cache = settings.room.cache(gpu_memory)
        needed = (settings.room.engine + cache) / gpu_memory
        arguments |= {
            "kv_cache_memory_bytes": cache,
            "gpu_memory_utilization": round(min(0.9, needed), 4),
            "enable_sleep_mode": settings.sleeps,
        }
    return arguments


class VllmEngine:
    """vLLM within the actor's process, with processes beside it where it spans several GPUs."""

    def __init__(self, settings: RolloutSettings) -> None:
        from vllm import LLM

        allow_amx()  # vLLM loads the plugin only where this package is installed, not where it is on the path
        self.settings = settings
        gpu_memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
        self.can_sleep = settings.sleeps and gpu_memory is not None  # vLLM has no sleep on a CPU
        self.asleep = False
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(served_config(settings.shape)))
            self.llm = LLM(**vllm_arguments(settings, folder, gpu_memory))
        if settings.drawn_at:
            self.llm.collective_rpc("divide_logits", args=(settings.temperature,))
        # The first call compiles kernels, which takes seconds: now, while the other groups start.
        self.generate([[0, 0]], settings, 0)

    def join_channel(self, place: tuple[str, int], first: int, members: int) -> None:
        self.llm.collective_rpc("join_channel", args=(place, first, members, self.settings.deadline_s))

    def load(self, message: WeightMessage) -> Arrived:
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        workers = self.llm.collective_rpc("take_weights", args=(message, self.settings.deadline_s, self.settings.gpus))
        if self.asleep:  # the cache's memory only now: loading needs some of its own
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self.llm.reset_prefix_cache()  # cached keys and values belong to the old weights
        arrived: Arrived = workers[0]
        return next((worker for worker in workers if worker != arrived), arrived)  # one that differs, if any does

    def held(self) -> Held:
        return joined(self.llm.collective_rpc("held_parts", args=(self.settings.shape, self.settings.gpus)))

    def sleep(self) -> None:
        if self.can_sleep and not self.asleep:
            self.llm.sleep(level=2)  # nothing is kept: new weights come before the next prompt
            self.asleep = True

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                max_tokens=settings.max_new_tokens,
                temperature=settings.drawn_at,
                top_p=settings.top_p,
                stop_token_ids=settings.stop_ids,
                seed=(seed * 1_000_003 + number) % 2**31,
                logprobs=0,
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        requests = self.llm.generate([{"prompt_token_ids": p} for p in prompts], parameters, use_tqdm=False)
        outputs = [request.outputs[0] for request in requests]
        return [(list(o.token_ids), [next(iter(d.values())).logprob for d in o.logprobs]) for o in outputs]
