"""One rank of a model that trains: torch process group, DeepSpeed ZeRO engine, checkpoint, full weights."""

import datetime
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
import torch
import torch.distributed as dist
from torch import Tensor

from actors.group import Figures, timed
from actors.ppo.weights import cut_by_bytes
from ilm_ray.alignment.ppo.arithmetic import even_micro_batches, share_out
from ilm_ray.alignment.ppo.experience import per_response, response_labels
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel
from ilm_ray.model.names import Weights
from ilm_ray.training.parallel.recompute import recompute_blocks


class ZeroRank:
    """Base of policy and critic."""

    role: str  # its name in messages
    zero_stage: int
    ppo: PPOConfig
    micro_tokens: int

    def __init__(self, rank: int, world: int, settings: Any) -> None:
        self.rank, self.world, self.settings = rank, world, settings
        self.ppo, self.micro_tokens = settings.ppo, settings.micro_tokens
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # DeepSpeed makes the master weights from these; no rank holds a whole model in fp32.
        self.dtype = torch.bfloat16 if settings.ppo.precision == "bf16" else torch.float32
        # On a GPU activations decide what fits. On a CPU nothing is short, and a second forward costs time.
        self.recompute: Literal["none", "full"] = "full" if self.device.type == "cuda" else "none"

    @timed
    def open_store(self, first: bool) -> tuple[None, Figures]:
        """Rank 0 opens the store where the ranks meet, on a port that the system picks and that stays bound."""
        if not first:
            return None, {}
        on_loopback = os.environ.get("GLOO_SOCKET_IFNAME") == "lo"
        host = "127.0.0.1" if on_loopback else ray.util.get_node_ip_address()
        self.store = dist.TCPStore(host, 0, self.world, is_master=True, wait_for_workers=False)
        return None, {"host": host, "port": self.store.port}

    @timed
    def join(self, store: Figures) -> tuple[None, Figures]:
        """Form the process group. A collective that waits longer than the deadline raises."""
        host, port = store["host"], store["port"]
        timeout = datetime.timedelta(seconds=self.ppo.deadline_s)
        if self.rank:
            self.store = dist.TCPStore(host, port, self.world, is_master=False, timeout=timeout)
        # DeepSpeed reads its place from the environment even where the process group is there already.
        place = {"RANK": self.rank, "WORLD_SIZE": self.world, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        os.environ.update({k: str(v) for k, v in place.items()}, MASTER_ADDR=host, MASTER_PORT=str(port))
        if self.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        backend = "gloo" if self.device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.world, timeout=timeout)
        return None, {}

    def make_engine(self, model: CausalLM | ScalarModel, lr: float) -> None:
        """DeepSpeed around the model. AdamW without weight decay, constant rate; betas are not stated (ours)."""
        import deepspeed

        # An extension that only inference uses. A rank that is killed while torch loads it leaves a lock behind, and
        # every later rank would wait for that lock silently.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.ppo.clip_norm,
            "bf16": {"enabled": self.ppo.precision == "bf16"},
            "zero_optimization": {"stage": self.zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }
        if isinstance(model, CausalLM) and model.shape.tied:  # ZeRO-3 then gathers the matrix for the head too
            deepspeed.zero.register_external_parameter(model.output, model.model.tok_embeddings.weight)
        recompute_blocks(model, self.recompute)  # the same gradients, bit for bit
        # The fused step needs no copies of its own of what it updates.
        fused = {"fused": True} if self.device.type == "cuda" else {}
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, **fused)
        self.engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]

    @torch.no_grad()
    def infer(
        self,
        sequences: list[list[int]],
        prompt_lengths: list[int],
        per_token: Callable[[Packed, Tensor], Tensor],
    ) -> dict[int, Tensor]:
        """This rank's share of a forward over all sequences: sequence number -> one fp32 number a response token."""
        lengths = list(map(len, sequences))
        micros = even_micro_batches(share_out(lengths, self.world), lengths, self.micro_tokens)[self.rank]
        return infer_micro_batches(micros, sequences, prompt_lengths, per_token, self.device)

    def update(self, losses: Sequence[Callable[[], Tensor]], iteration: int) -> float | None:
        """One optimizer step on the sum of `losses` (scalars, one a micro-batch), summed over the ranks.

        Every rank must bring equally many. DeepSpeed averages over the ranks, hence the factor. Returns the gradient
        norm before clipping, None where DeepSpeed has none (ZeRO-0 in fp32). Raises FloatingPointError where loss or
        gradient is not finite: DeepSpeed would silently skip the step, or apply it.
        """
        where = f"of {self.role} in iteration {iteration}"
        for number, loss in enumerate(losses):
            self.engine.set_gradient_accumulation_boundary(number == len(losses) - 1)
            value = loss()
            require_finite(float(value.detach()), f"loss {where}")
            self.engine.backward(value * self.world)
        # Without ZeRO the gradients of all ranks are here, and DeepSpeed does not check them.
        grads = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        if self.zero_stage == 0 and grads:
            require_finite(float(torch.nn.utils.get_total_norm(grads)), f"gradient norm {where}")
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        # -1 is how DeepSpeed may write a norm that is not finite.
        return None if norm is None else require_finite(math.nan if norm < 0 else float(norm), f"gradient norm {where}")

    def total(self, *values: float) -> list[float]:
        """Sums over the ranks."""
        sums = torch.tensor(values, dtype=torch.float64 if self.device.type == "cpu" else torch.float32)
        sums = sums.to(self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def gather(self, limit: int) -> Iterator[Weights]:
        """Copies of the weights in parts of at most `limit` bytes: on rank 0, {} elsewhere. Every rank calls it."""
        import deepspeed

        named = dict(self.engine.module.named_parameters())
        # Under ZeRO-3 a parameter that is not gathered has no elements; DeepSpeed keeps its shape beside it.
        sizes = {name: getattr(p, "ds_numel", p.numel()) * p.element_size() for name, p in named.items()}
        for names in cut_by_bytes(sizes, limit):
            bucket = {name: named[name] for name in names}
            with deepspeed.zero.GatheredParameters(list(bucket.values()), enabled=self.zero_stage == 3):
                if self.rank == 0:
                    part = {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in bucket.items()}
            yield {} if self.rank else part

    @timed
    def save(self, folder: Path, tag: str) -> tuple[None, Figures]:
        """Weights and optimizer state of every rank under `<folder>/<tag>`; the driver commits them."""
        self.engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        return None, {}

    @timed
    def restore(self, folder: Path, tag: str) -> tuple[None, Figures]:
        """The inverse of `save`, with as many ranks."""
        loaded, _ = self.engine.load_checkpoint(str(folder), tag=tag)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed finds no checkpoint {tag} in {folder}")
        return None, {}


def require_finite(value: float, name: str) -> float:
    """The value itself. Raises FloatingPointError with `name` in it where it is NaN or infinite."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{name} is {value}")
    return value


def infer_micro_batches(
    micros: list[list[int]],
    sequences: list[list[int]],
    prompt_lengths: list[int],
    per_token: Callable[[Packed, Tensor], Tensor],
    device: torch.device,
) -> dict[int, Tensor]:
    """Sequence number -> one fp32 number on the CPU for each response token.

    per_token(packed, labels) gives one number for every packed position. An empty micro-batch still goes through the
    model: ranks that share it must meet.
    """
    values: dict[int, Tensor] = {}
    for micro in micros:
        batch_sequences = [sequences[i] for i in micro] or [[0, 0]]
        starts = [prompt_lengths[i] for i in micro] or [1]
        batch, labels = response_labels(batch_sequences, starts)
        flat = per_token(batch.to(device), labels.to(device)).float().cpu()
        parts = per_response(flat, batch_sequences, starts)
        # clone: a view would carry the whole micro-batch through the object store.
        values |= {i: part.clone() for i, part in zip(micro, parts, strict=False)}
    return values
