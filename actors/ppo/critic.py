"""The critic: a value for every response token; starts from the reward model's body with a fresh head."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actors.group import Figures, timed
from actors.ppo.zero import ZeroRank
from ilm_ray.alignment.ppo.arithmetic import even_micro_batches, plan_updates, share_out, value_loss
from ilm_ray.alignment.ppo.experience import Experience, Rollouts, merge, nothing, per_response
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.weights import load_scalar


@dataclass(frozen=True)
class CriticSettings:
    """Settings of a critic's rank; micro_tokens: most tokens of a forward and backward."""

    ppo: PPOConfig
    model: Path  # the reward model
    seed: int
    micro_tokens: int


class Critic(ZeroRank):
    """One ZeRO rank of the critic."""

    role = "critic"
    settings: CriticSettings

    @timed
    def build(self) -> tuple[None, Figures]:
        s = self.settings
        torch.manual_seed(s.seed)
        self.zero_stage = s.ppo.critic_zero_stage
        model = load_scalar(s.model, self.device, self.dtype, head_seed=s.seed + 1)
        self.make_engine(model, s.ppo.critic_lr)
        return None, {}

    @timed
    def values(self, *rollouts: Rollouts) -> tuple[dict[int, Tensor], Figures]:
        """The value of the state before each response token, for this rank's share."""
        merged = merge(rollouts)
        return self.infer(merged.sequences, merged.prompt_lengths, lambda batch, _: self.engine(batch)), {}

    @timed
    def train(self, experience: Experience, iteration: int) -> tuple[None, Figures]:
        """ppo_epochs passes of mini_batches steps on the squared error, global token mean."""
        ppo, lengths = self.ppo, list(map(len, experience.sequences))
        sums, norm = torch.zeros(2, dtype=torch.float64), None
        for epoch in range(ppo.ppo_epochs):
            for numbers in plan_updates(lengths, ppo.mini_batches, [self.settings.seed, iteration, epoch]):
                shares = [[numbers[i] for i in share] for share in share_out([lengths[i] for i in numbers], self.world)]
                micros = even_micro_batches(shares, lengths, self.micro_tokens)[self.rank]
                tokens = max(1.0, float(sum(int(experience.masks[i].sum()) for i in numbers)))
                norm = self.update([self._loss(experience, micro, tokens, sums) for micro in micros], iteration)
        loss, counted = self.total(*sums.tolist())
        return None, {"value_loss": loss / max(counted, 1.0), "value_grad_norm": norm}

    def _loss(self, experience: Experience, micro: list[int], tokens: float, sums: Tensor) -> Callable[[], Tensor]:
        """The loss of one micro-batch; adds to `sums`: loss, tokens."""

        def compute() -> Tensor:
            if not micro:
                return self.engine(nothing()[0].to(self.device)).sum() * 0.0
            sequences = [experience.sequences[i] for i in micro]
            starts = [experience.prompt_lengths[i] for i in micro]
            flat = self.engine(Packed.of(sequences).to(self.device))
            mask = torch.cat([experience.masks[i] for i in micro]).to(self.device)
            returns = torch.cat([experience.returns[i] for i in micro]).to(self.device)
            old = torch.cat([experience.old_values[i] for i in micro]).to(self.device)
            values = torch.cat(per_response(flat, sequences, starts))
            each = value_loss(values[mask], returns[mask], old[mask], self.ppo.value_clip)
            sums.add_(torch.tensor([each.sum().item(), float(mask.sum())], dtype=torch.float64))
            return each.sum() / tokens

        return compute
