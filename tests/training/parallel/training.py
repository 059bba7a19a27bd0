"""Three training steps of a small model in any layout, and the same steps by one process with torch alone."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor

from ilm_ray.config.layout import Layout
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.shape import RopeScaling
from ilm_ray.training.parallel.parallelize import ParallelModel, parallelize
from ilm_ray.training.parallel.stages import Window
from tests.processes import run_ranks

SHAPE = Shape(vocab_size=96, layers=4, hidden=64, kv_heads=4, queries_per_kv=2, head_dim=8, mlp_hidden=96, init_std=0.1)
# All that families vary, at once: a tied head, every bias, QK norm, scaled RoPE.
FAMILY = dataclasses.replace(
    SHAPE, tied=True, qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=True,
    rope_scaling=RopeScaling("llama3", 4.0, 16, 1.0, 4.0),
)  # fmt: skip
CONTEXT, SEQUENCES, STEPS, CLIP = 32, 16, 3, 0.5


@dataclass
class Trained:
    """Results of three steps: loss and gradient norm of each, the last gradients (clipped) and weights, by name.

    forward: the trained model's losses of tokens that no layout divides evenly, then their logits.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    forward: Tensor | None = None

    def differences(self, other: "Trained") -> dict[str, float]:
        """Largest absolute difference of each kind of figure."""
        assert self.weights.keys() == other.weights.keys() and self.gradients.keys() == other.gradients.keys()
        assert self.forward is not None and other.forward is not None
        return {
            "loss": max(abs(a - b) for a, b in zip(self.losses, other.losses, strict=True)),
            "norm": max(abs(a - b) for a, b in zip(self.norms, other.norms, strict=True)),
            "gradient": max(float((self.gradients[n] - g).abs().max()) for n, g in other.gradients.items()),
            "weight": max(float((self.weights[n] - w).abs().max()) for n, w in other.weights.items()),
            "forward": float((self.forward - other.forward).abs().max()),
        }


def build(dtype: torch.dtype, shape: Shape = SHAPE) -> CausalLM:
    """The same weights wherever it is called; biases and weights of QK norms are not what training begins with."""
    model = CausalLM(shape, loss_chunk=40)
    initialize(model, seed=3)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "q_norm.weight", "k_norm.weight")):
            nn.init.normal_(parameter, 0.5, 0.1, generator)
    return model.to(dtype)


def make_optimizer(parameters: Any, dtype: torch.dtype) -> optim.Optimizer:
    """SGD in fp32: Adam divides small gradients by themselves, which makes rounding look like an error."""
    if dtype == torch.float32:
        return optim.SGD(parameters, lr=0.3, momentum=0.9)
    return optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)


def window(step: int, numbers: Sequence[int]) -> Window:
    """Packed sequences of a step's global batch: each of CONTEXT tokens, cut into documents of 1 to 20 tokens."""
    pieces: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for number in numbers:
        generator = np.random.default_rng([step, number])
        left = CONTEXT
        while left:
            length = min(int(generator.integers(1, 21)), left)
            document = generator.integers(0, SHAPE.vocab_size, length + 1)
            pieces.append(document[:-1])
            label = document[1:].copy()
            label[generator.random(length) < 0.3] = IGNORE  # ranks then predict different numbers of tokens
            labels.append(label)
            left -= length
    return packed_from_arrays(pieces), torch.from_numpy(np.concatenate(labels))


def valid_tokens(step: int) -> int:
    """Tokens predicted by the whole global batch: what every rank's loss is divided by."""
    return int((window(step, range(SEQUENCES))[1] != IGNORE).sum())


@torch.no_grad()
def forward(model: CausalLM | ParallelModel) -> Tensor:
    """The model's losses and logits of 29 tokens: (29, 1 + vocabulary)."""
    batch, labels = packed_from_arrays([np.arange(13), np.arange(50, 66)]), torch.arange(29)
    return torch.cat([model(batch, labels)[:, None], model(batch)], dim=1)


def train_alone(dtype: torch.dtype, shape: Shape = SHAPE) -> Trained:
    """The oracle: one process, the plain model on the whole batch at once, torch's own clipping and optimizer."""
    model, out = build(dtype, shape), Trained()
    optimizer = make_optimizer(model.parameters(), dtype)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(*window(step, range(SEQUENCES))).sum() / valid_tokens(step)
        loss.backward()
        out.norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
        out.losses.append(loss.item())
    out.weights = {name: p.detach() for name, p in model.named_parameters()}
    out.gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    out.forward = forward(model)
    return out


def train_step(model: ParallelModel, optimizers: Sequence[optim.Optimizer], step: int) -> tuple[float, float]:
    """One step of this rank: (loss of the global batch, gradient norm)."""
    dp = model.layout.dp
    assert dp is not None
    mine = range(model.meshes.rank("dp"), SEQUENCES, dp)
    at_once = -(-len(mine) // 4)
    windows = [window(step, mine[i : i + at_once]) for i in range(0, len(mine), at_once)]
    for optimizer in optimizers:
        optimizer.zero_grad()
    losses = model.backward_windows(windows, dp / valid_tokens(step))
    loss = torch.stack(losses).sum().double()
    dist.all_reduce(loss, group=model.meshes.group("dp"))
    norm = model.clip_gradients(CLIP)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item() / valid_tokens(step), norm


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _train(cases: Sequence[tuple[Layout, torch.dtype]], folder: str, shape: Shape) -> None:
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)  # full_tensor gathers over two meshes in turn
    for number, (layout, dtype) in enumerate(cases):
        stored = torch.float32 if dtype == torch.bfloat16 else dtype  # bf16 computes so and keeps fp32 weights
        precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        model, out = parallelize(build(stored, shape), layout, torch.device("cpu"), precision), Trained()
        optimizers = [make_optimizer(part.parameters(), stored) for part in model.parts]
        for step in range(STEPS):
            loss, norm = train_step(model, optimizers, step)
            out.losses.append(loss)
            out.norms.append(norm)
        for part in model.parts:
            for name, parameter in part.named_parameters():
                assert parameter.grad is not None
                out.weights[name] = _whole(parameter).detach().clone()
                out.gradients[name] = _whole(parameter.grad).clone()
        with model.active():  # last, for it leaves parameters gathered that are read from shards above
            out.forward = forward(model)
        if all(model.meshes.rank(name) == 0 for name in ("dp", "cp", "tp")):
            torch.save(vars(out), Path(folder) / f"{number}-{model.meshes.rank('pp')}.pt")


def train_layouts(
    cases: Sequence[tuple[Layout, torch.dtype]], ranks: int, folder: Path, deadline_s: float, shape: Shape = SHAPE
) -> list[Trained]:
    """Train each layout, one after the other on the same ranks, and put the stages' figures together."""
    run_ranks(_train, ranks, cases, str(folder), shape, deadline_s=deadline_s)
    results = []
    for number, (layout, _) in enumerate(cases):
        whole = Trained()
        for stage in range(layout.pp):
            saved = torch.load(folder / f"{number}-{stage}.pt", weights_only=True)
            for name in whole.weights.keys() & saved["weights"].keys():
                assert shape.tied and name == "model.tok_embeddings.weight", "two stages hold the same layer"
                assert all(torch.equal(getattr(whole, of)[name], saved[of][name]) for of in ("weights", "gradients"))
            whole.weights |= saved["weights"]
            whole.gradients |= saved["gradients"]
            whole.losses, whole.norms, whole.forward = saved["losses"], saved["norms"], saved["forward"]
        results.append(whole)
    return results
