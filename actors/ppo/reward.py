"""The reward group. Only it sees the condition of a prompt's domain, where the reward model has conditions."""

from dataclasses import dataclass
from pathlib import Path

import torch

from actors.group import Figures, timed
from actors.ppo.member import Member
from ilm_ray.alignment.ppo.arithmetic import cut_micro_batches, share_out
from ilm_ray.alignment.ppo.experience import Rollouts, merge
from ilm_ray.alignment.reward.conditional import conditioned
from ilm_ray.model.internlm2 import Packed, ScalarModel
from ilm_ray.training.parallel.split import load_frozen, scoring


@dataclass(frozen=True)
class ChatIds:
    """Token ids that the groups need: conditions, reward token, ends of an answer."""

    prefixes: dict[str, list[int]]  # domain -> tokens of the reward model's condition
    reward_id: int | None  # None: the reward model is read at the conversation's last token
    end_id: int  # ends an assistant's message
    tail: list[int]  # tokens that the chat template writes behind `end_id`; an engine that stops there leaves them out
    stop_ids: list[int]
    begins: bool = True  # conversations begin with the begin token

    def prefix(self, domain: str) -> list[int]:
        """The condition of a domain; nothing for a reward model without conditions."""
        return self.prefixes[domain] if self.prefixes else []


@dataclass(frozen=True)
class RewardSettings:
    """Settings of a reward rank."""

    model: Path
    micro_tokens: int
    precision: str  # fp32 or bf16
    chat: ChatIds
    context: int  # tokens; a longer conversation loses its beginning
    gpus: int = 1  # ranks that hold a copy together


class Reward(Member):
    """One rank: a copy of the model, or its share of one, and the copy's share of the sequences."""

    def __init__(self, rank: int, world: int, settings: RewardSettings) -> None:
        self.rank, self.world, self.settings = rank, world, settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @timed
    def build(self) -> tuple[None, Figures]:
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        self.model = load_frozen(ScalarModel, self.settings.model, self.device, dtype, self.settings.gpus)
        return None, {}

    @timed
    def score(self, *rollouts: Rollouts) -> tuple[dict[int, float], Figures]:
        """One score a sequence of this copy's share, from its first rank; read at the reward token at the end."""
        settings, chat, gpus, merged = self.settings, self.settings.chat, self.settings.gpus, merge(rollouts)
        inputs = []
        for prompt, ids in zip(merged.prompts, merged.sequences, strict=True):
            whole = ids + chat.tail if ids[-1] == chat.end_id else ids
            inputs.append(conditioned(chat.prefix(prompt.domain), whole, chat.reward_id, settings.context, chat.begins))
        lengths = list(map(len, inputs))
        scores: dict[int, float] = {}
        share = share_out(lengths, self.world // gpus)[self.rank // gpus]
        for micro in cut_micro_batches(share, lengths, settings.micro_tokens):
            batch = Packed.of([inputs[i] for i in micro]).to(self.device)
            with torch.no_grad(), scoring(gpus):
                last = self.model(batch)[batch.cu_seqlens[1:].long() - 1]
            scores |= dict(zip(micro, last.tolist(), strict=True))
        if self.rank % gpus:
            scores = {}
        return scores, {}
