"""A frozen language model that gives log-probabilities: the reference of the KL penalty."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actors.group import Figures, timed
from actors.ppo.member import Member
from actors.ppo.temperature import Temperature
from actors.ppo.weights import BUCKET_BYTES, WeightMessage, cut_by_bytes, pack
from actors.ppo.zero import infer_micro_batches
from ilm_ray.alignment.ppo.arithmetic import cut_micro_batches, share_out
from ilm_ray.alignment.ppo.experience import Rollouts, merge
from ilm_ray.model.internlm2 import CausalLM
from ilm_ray.model.names import to_engine
from ilm_ray.training.parallel.split import load_frozen, scoring


@dataclass(frozen=True)
class FrozenSettings:
    """Settings of a frozen model's rank."""

    model: Path
    micro_tokens: int
    loss_chunk: int  # tokens whose logits exist at once
    precision: str  # fp32 or bf16
    gpus: int = 1  # ranks that hold a copy together
    temperature: float = 1.0  # of the log-probabilities


class Reference(Member):
    """One rank: a copy of the model, or its share of one, and the copy's share of the sequences."""

    def __init__(self, rank: int, world: int, settings: FrozenSettings) -> None:
        self.rank, self.world, self.settings = rank, world, settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @timed
    def build(self) -> tuple[None, Figures]:
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        self.model = load_frozen(CausalLM, self.settings.model, self.device, dtype, self.settings.gpus)
        self.model.output.loss_chunk = self.settings.loss_chunk
        Temperature(self.model, self.settings.temperature)
        return None, {}

    @timed
    def logprobs(self, *rollouts: Rollouts) -> tuple[dict[int, Tensor], Figures]:
        """Log-probabilities of the sampled tokens, for this copy's share; its first rank hands them on."""
        merged, gpus = merge(rollouts), self.settings.gpus
        lengths = list(map(len, merged.sequences))
        share = share_out(lengths, self.world // gpus)[self.rank // gpus]
        micros = cut_micro_batches(share, lengths, self.settings.micro_tokens)
        with torch.no_grad(), scoring(gpus):
            logprobs = infer_micro_batches(
                micros, merged.sequences, merged.prompt_lengths, lambda b, labels: -self.model(b, labels), self.device
            )
        return {} if self.rank % gpus else logprobs, {}

    @timed
    def weights(self) -> tuple[WeightMessage | None, Figures]:
        """All weights of a copy that is not split in one message from rank 0, as version 0."""
        if self.rank:
            return None, {}
        full = dict(self.model.state_dict())
        sizes = {name: t.numel() * t.element_size() for name, t in full.items()}
        parts = cut_by_bytes(sizes, BUCKET_BYTES)
        return pack((to_engine({name: full[name] for name in part}, self.model.shape) for part in parts), 0)
