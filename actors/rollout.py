"""Rollout engines: vLLM inside the actor's own process, or the embedded torch generator; one interface.

An engine serves nothing until it has received weights, found their checksum right and loaded them.
"""

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from actors.group import Figures, step
from actors.weights import WeightMessage, checksum
from ilm_ray.alignment.experience import Prompt, Rollouts
from ilm_ray.errors import UserError
from ilm_ray.model.generate import generate
from ilm_ray.model.huggingface import Weights, from_llama, llama_config
from ilm_ray.model.internlm2 import CausalLM, Shape

Completion = tuple[list[int], list[float]]

# vLLM reads these when it is imported. One process: no child to lose. 1 GiB of cache is plenty on a CPU, and its
# own thread binding would take the cores from the ranks beside it.
VLLM_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class RolloutSettings:
    shape: Shape
    backend: str  # vllm or torch
    precision: str  # fp32 or bf16
    max_tokens: int  # prompt and response together
    max_new_tokens: int
    temperature: float
    top_p: float
    stop_ids: list[int]
    seed: int
    gpu_memory_share: float = 0.9  # of the GPU's memory; less where other ranks share it


def choose_backend(wanted: str) -> str:
    """auto -> vllm where it is installed, else torch. Raises UserError where vllm is demanded and absent."""
    installed = importlib.util.find_spec("vllm") is not None
    if wanted == "vllm" and not installed:
        raise UserError("ppo.rollout_backend=vllm but vLLM is not installed; install it or set it to torch")
    return "torch" if wanted == "torch" or not installed else "vllm"


class Engine(Protocol):
    """What a rollout actor drives."""

    def load(self, weights: Weights) -> None:
        """Replace all weights (LLaMA names)."""

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        """New tokens and their log-probabilities under the untruncated distribution at temperature 1."""


class TorchEngine:
    def __init__(self, settings: RolloutSettings) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.model = CausalLM(settings.shape).to(device, dtype).requires_grad_(False)

    def load(self, weights: Weights) -> None:
        self.model.load_state_dict(from_llama(weights, self.model.shape))

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        s = settings
        return generate(self.model, prompts, s.max_new_tokens, s.temperature, s.top_p, s.stop_ids, seed)


class VllmEngine:
    def __init__(self, settings: RolloutSettings) -> None:
        from vllm import LLM

        # Weights arrive before the first prompt, so the folder needs no file but config.json.
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(llama_config(settings.shape)))
            self.llm = LLM(
                model=folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                enforce_eager=True,
                max_model_len=settings.max_tokens,
                dtype="bfloat16" if settings.precision == "bf16" else "float32",
                gpu_memory_utilization=settings.gpu_memory_share,
                seed=settings.seed,
            )
        # The first call compiles kernels and takes seconds; better now, while the other groups start.
        self.generate([[0, 0]], settings, 0)

    def load(self, weights: Weights) -> None:
        arguments = {"weights_iterator": iter(list(weights.items())), "is_checkpoint_format": True}
        self.llm.collective_rpc("reload_weights", kwargs=arguments)
        self.llm.reset_prefix_cache()  # cached keys and values belong to the old weights

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stop_token_ids=settings.stop_ids,
                seed=(seed * 1_000_003 + number) % 2**31,
                logprobs=0,
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        done = self.llm.generate([{"prompt_token_ids": p} for p in prompts], parameters, use_tqdm=False)
        outputs = [request.outputs[0] for request in done]
        return [(list(o.token_ids), [next(iter(d.values())).logprob for d in o.logprobs]) for o in outputs]


class Rollout:
    """One engine."""

    def __init__(self, rank: int, world: int, settings: RolloutSettings) -> None:
        self.rank, self.settings = rank, settings
        self.version: int | None = None  # None: no verified weights, no service
        self.checksum = ""

    @step
    def build(self) -> tuple[None, Figures]:
        self.engine: Engine = (VllmEngine if self.settings.backend == "vllm" else TorchEngine)(self.settings)
        return None, {}

    @step
    def load_weights(self, message: WeightMessage, version: int, expected: str) -> tuple[None, Figures]:
        """Load a version of the weights; `expected` is the checksum at the sender."""
        self.version = None
        received = checksum(message.weights)
        if message.version != version or received != expected:
            raise RuntimeError(
                f"weights of version {message.version} with checksum {received} arrived, "
                f"version {version} with {expected} was announced"
            )
        self.engine.load(message.weights)
        self.version, self.checksum = version, received
        return None, {}

    @step
    def status(self) -> tuple[None, Figures]:
        """Which weights are served."""
        return None, {"version": self.version, "checksum": self.checksum}

    @step
    def rollout(self, prompts: list[Prompt], version: int, seed: int) -> tuple[Rollouts, Figures]:
        """Answer prompts with the weights of `version`, no other."""
        if self.version != version:
            raise RuntimeError(f"weights of version {version} are asked for, verified ones are {self.version}")
        answers = self.engine.generate([p.ids for p in prompts], self.settings, seed)
        tokens = sum(len(ids) for ids, _ in answers)
        behaviour = [torch.tensor(logprobs) for _, logprobs in answers]
        return Rollouts(prompts, [ids for ids, _ in answers], behaviour, version), {"tokens": tokens}
