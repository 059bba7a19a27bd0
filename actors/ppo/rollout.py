"""Rollout engines: vLLM inside the actor's own process, or the embedded torch generator; one interface.

An engine serves nothing until it has received weights, compared every tensor with the sender's digest, loaded them and
read them back out of itself; before each batch it reads them again.
"""

import importlib.util
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from actors.group import Figures, timed
from actors.ppo.weights import WeightMessage, checksum, differing, digests
from ilm_ray.alignment.ppo.experience import Prompt, Rollouts
from ilm_ray.base.errors import UserError
from ilm_ray.model.generate import generate
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.model.weights import Weights, from_llama, full_weights, llama_config, to_llama
from ilm_ray.serving.vllm_plugin import allow_amx

Completion = tuple[list[int], list[float]]

PROBED = 16  # columns that are read back of a matrix that cannot be read whole

# vLLM reads these when it is imported. One process: no child to lose. 1 GiB of cache is plenty on a CPU, and vLLM's
# thread binding would take the cores from the ranks beside it.
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
    gpu_memory_share: float = 0.9  # of the GPU's memory; less where other ranks share it


def choose_backend(backend: str, setting: str = "ppo.rollout_backend") -> str:
    """auto -> vllm where it is installed, else torch. Raises UserError where vllm is demanded and absent."""
    installed = importlib.util.find_spec("vllm") is not None
    if backend == "vllm" and not installed:
        raise UserError(f"{setting}=vllm but vLLM is not installed; install it or set it to torch")
    return "torch" if backend == "torch" or not installed else "vllm"


class Engine(Protocol):
    """Interface of the two engines."""

    def load(self, buckets: Iterable[Weights]) -> None:
        """Replace all weights (LLaMA names)."""

    def read(self) -> Weights:
        """The weights that it holds now, under LLaMA names; of a matrix in a kernel's format the columns
        `probe_columns`."""

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        """New tokens and their log-probabilities under the untruncated distribution at temperature 1."""


def probe_columns(count: int) -> list[int]:
    """Up to PROBED columns of `count`, evenly over all."""
    return [i * count // PROBED for i in range(PROBED)] if count > PROBED else list(range(count))


class TorchEngine:
    """An engine in plain torch, for where vLLM is not installed; repeats bit for bit on a CPU."""

    def __init__(self, settings: RolloutSettings) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.model = CausalLM(settings.shape).to(device, dtype).requires_grad_(False)

    def load(self, buckets: Iterable[Weights]) -> None:
        missing = set(self.model.state_dict())
        for bucket in buckets:
            part = from_llama(bucket, self.model.shape)
            missing -= part.keys()
            if unknown := self.model.load_state_dict(part, strict=False).unexpected_keys:
                raise ValueError(f"weights that the model does not have: {', '.join(unknown)}")
        if missing:
            raise ValueError(f"weights are missing: {', '.join(sorted(missing))}")

    def read(self) -> Weights:
        return to_llama(full_weights(self.model), self.model.shape)

    def generate(self, prompts: Sequence[list[int]], settings: RolloutSettings, seed: int) -> list[Completion]:
        s = settings
        return generate(self.model, prompts, s.max_new_tokens, s.temperature, s.top_p, s.stop_ids, seed)


class VllmEngine:
    """vLLM within the actor's process, fed with weights from memory."""

    def __init__(self, settings: RolloutSettings) -> None:
        from vllm import LLM

        allow_amx()  # vLLM loads the plugin only where this package is installed, not where it is on the path
        self.shape = settings.shape
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
        # The first call compiles kernels, which takes seconds: now, while the other groups start.
        self.generate([[0, 0]], settings, 0)

    def load(self, buckets: Iterable[Weights]) -> None:
        tensors = (item for bucket in buckets for item in bucket.items())
        arguments = {"weights_iterator": tensors, "is_checkpoint_format": True}
        self.llm.collective_rpc("reload_weights", kwargs=arguments)
        self.llm.reset_prefix_cache()  # cached keys and values belong to the old weights

    @torch.no_grad()
    def read(self) -> Weights:
        (model,) = self.llm.apply_model(lambda model: model)
        kv = self.shape.kv_heads * self.shape.head_dim
        fused = {  # vLLM's name -> LLaMA's names and rows
            "qkv_proj": {"q_proj": self.shape.heads * self.shape.head_dim, "k_proj": kv, "v_proj": kv},
            "gate_up_proj": {"gate_proj": self.shape.mlp_hidden, "up_proj": self.shape.mlp_hidden},
        }
        held: Weights = {}
        for prefix, module in model.named_modules():
            if not isinstance(getattr(module, "weight", None), torch.nn.Parameter):
                continue
            path, _, last = prefix.rpartition(".")
            matrix = _readable(module)
            # vLLM pads the vocabulary.
            rows = fused.get(
                last, {last: self.shape.vocab_size if last in ("embed_tokens", "lm_head") else len(matrix)}
            )
            for name, part in zip(rows, matrix[: sum(rows.values())].split(list(rows.values())), strict=True):
                held[f"{path}.{name}.weight".removeprefix(".")] = part
        return held

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
        requests = self.llm.generate([{"prompt_token_ids": p} for p in prompts], parameters, use_tqdm=False)
        outputs = [request.outputs[0] for request in requests]
        return [(list(o.token_ids), [next(iter(d.values())).logprob for d in o.logprobs]) for o in outputs]


def _readable(module: Any) -> Tensor:
    """The matrix of one of vLLM's layers, or its `probe_columns`."""
    if module.weight.numel():
        return module.weight
    # On a CPU linear layers keep their weights in a kernel's format; applied to unit vectors they give their columns.
    units = torch.eye(module.input_size, dtype=module.weight.dtype)[probe_columns(module.input_size)]
    return module.cpu_linear(units, module.weight, None).T


class Rollout:
    """One engine."""

    def __init__(self, rank: int, world: int, settings: RolloutSettings) -> None:
        self.rank, self.settings = rank, settings
        self.version: int | None = None  # None: no verified weights, no service
        self.checksum = ""
        self.held: dict[str, str] = {}  # digests of the engine's weights when they were verified

    @timed
    def build(self) -> tuple[None, Figures]:
        self.engine: Engine = (VllmEngine if self.settings.backend == "vllm" else TorchEngine)(self.settings)
        return None, {}

    @timed
    def load_weights(self, message: WeightMessage, version: int, expected: str) -> tuple[None, Figures]:
        """Load a version of the weights; `expected` is the checksum at the sender.

        Raises RuntimeError where another version arrives, where a tensor arrives changed, or where the engine does not
        hold the weights that it loaded; it serves nothing then.
        """
        self.version = None
        arrived = checksum(message.digests)
        if message.version != version or arrived != expected:
            raise RuntimeError(
                f"weights of version {message.version} with checksum {arrived} arrived, "
                f"version {version} with {expected} was announced"
            )
        deadline_s = self.settings.deadline_s
        received = {name: digest for part in message.open(deadline_s) for name, digest in digests(part).items()}
        if wrong := differing(received, message.digests):
            raise RuntimeError(f"weights of version {version} changed on their way: {wrong}")
        self.engine.load(message.open(deadline_s))
        held, sent = self.engine.read(), dict(message.digests)
        for part in message.open(deadline_s):
            probed = {n: t for n, t in part.items() if n in held and held[n].shape != t.shape}
            sent |= digests({n: t[:, probe_columns(t.shape[1])] for n, t in probed.items()})
        self.held = digests(held)
        if wrong := differing(self.held, sent):
            raise RuntimeError(f"the engine does not hold the weights of version {version} that it loaded: {wrong}")
        self.version, self.checksum = version, arrived
        return None, {}

    @timed
    def status(self) -> tuple[None, Figures]:
        """Version and checksum of the served weights."""
        return None, {"version": self.version, "checksum": self.checksum}

    @timed
    def rollout(self, prompts: list[Prompt], version: int, seed: int) -> tuple[Rollouts, Figures]:
        """Answer prompts with the weights of `version`, no other."""
        if self.version != version:
            raise RuntimeError(f"weights of version {version} are asked for, verified ones are {self.version}")
        if wrong := differing(digests(self.engine.read()), self.held):
            self.version = None
            raise RuntimeError(f"the engine's weights of version {version} changed after they were loaded: {wrong}")
        # There may be more engines than prompts.
        answers = self.engine.generate([p.ids for p in prompts], self.settings, seed) if prompts else []
        tokens = sum(len(ids) for ids, _ in answers)
        behaviour = [torch.tensor(logprobs) for _, logprobs in answers]
        return Rollouts(prompts, [ids for ids, _ in answers], behaviour, version), {"tokens": tokens}
