"""The policy: log-probabilities of rollouts, clipped PPO steps with pre-training loss, full weights for the engines."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actors.group import Figures, timed
from actors.ppo.weights import BUCKET_BYTES, WeightMessage, pack
from actors.ppo.zero import ZeroRank
from ilm_ray.alignment.ppo.arithmetic import even_micro_batches, plan_updates, policy_loss, share_out
from ilm_ray.alignment.ppo.experience import Experience, Rollouts, join, merge, nothing, per_response, response_labels
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.data.tokens.mixture import Mixture
from ilm_ray.model.internlm2 import CausalLM, Packed
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import load_causal, save_internlm2, to_llama


@dataclass(frozen=True)
class PretrainMix:
    """Source of the sequences of the pre-training loss."""

    folder: Path  # a tokens stage
    shares: dict[str, float]
    context: int


@dataclass(frozen=True)
class PolicySettings:
    """Settings of a policy's rank; micro_tokens: most tokens of a forward and backward."""

    ppo: PPOConfig
    model: Path
    seed: int
    micro_tokens: int
    pretrain: PretrainMix | None  # None: PPO loss alone


class Policy(ZeroRank):
    """One ZeRO rank of the policy."""

    role = "policy"
    settings: PolicySettings

    @timed
    def build(self) -> tuple[None, Figures]:
        s = self.settings
        torch.manual_seed(s.seed)
        self.zero_stage = s.ppo.policy_zero_stage
        model = load_causal(s.model)
        self.shape, self.version = model.shape, 0
        self.make_engine(model, s.ppo.policy_lr)
        self.mixture = _open_mixture(s.pretrain, s.seed) if s.pretrain else None
        return None, {"parameters": sum(p.numel() for p in model.parameters())}

    @timed
    def logprobs(self, *rollouts: Rollouts) -> tuple[dict[int, Tensor], Figures]:
        """Log-probabilities of the sampled tokens under the weights that sampled them, for this rank's share."""
        merged = merge(rollouts)
        if merged.version != self.version:
            raise RuntimeError(f"rollouts of weight version {merged.version} reached policy version {self.version}")
        return self.infer(merged.sequences, merged.prompt_lengths, lambda b, labels: -self.engine(b, labels)), {}

    @timed
    def train(self, experience: Experience, iteration: int, cursor: int) -> tuple[None, Figures]:
        """ppo_epochs passes of mini_batches optimizer steps; the pre-training cursor (sequences) goes on from `cursor`.

        Loss of a step: mean clipped loss over its response tokens + pretrain_coefficient * mean next-token loss over
        its pre-training tokens; both means are global.
        """
        ppo, lengths = self.ppo, list(map(len, experience.sequences))
        sums = torch.zeros(5, dtype=torch.float64)
        updates, norm = 0, None
        for epoch in range(ppo.ppo_epochs):
            for numbers in plan_updates(lengths, ppo.mini_batches, [self.settings.seed, iteration, epoch]):
                shares = [[numbers[i] for i in share] for share in share_out([lengths[i] for i in numbers], self.world)]
                micros = even_micro_batches(shares, lengths, self.micro_tokens)[self.rank]
                count = sum(lengths[i] for i in numbers)
                extra, cursor = self._pretrain_batches(cursor, count, len(micros))
                local = float(sum((labels != IGNORE).sum() for _, labels in extra))
                pretrain_tokens = self.total(local)[0]
                tokens = float(sum(int(experience.masks[i].sum()) for i in numbers))
                losses = [
                    self._loss(experience, micro, more, tokens, pretrain_tokens, sums)
                    for micro, more in zip(micros, extra, strict=True)
                ]
                norm = self.update(losses, iteration)
                updates += 1
        self.version += 1
        loss, clipped, counted, pretrain, pretrained = self.total(*sums.tolist())
        return None, {
            "policy_loss": loss / counted,
            "clip_fraction": clipped / counted,
            "pretrain_loss": pretrain / pretrained if pretrained else None,
            "pretrain_tokens": int(pretrained),
            "grad_norm": norm,
            "updates": updates,
            "cursor": cursor,
            "version": self.version,
        }

    def _loss(
        self,
        experience: Experience,
        micro: list[int],
        extra: tuple[Packed, Tensor],
        tokens: float,
        pretrain_tokens: float,
        sums: Tensor,
    ) -> Callable[[], Tensor]:
        """Loss of one micro-batch, both parts in one forward.

        Adds to `sums`: PPO loss, clipped tokens, tokens; pre-training loss, its tokens.
        """

        def compute() -> Tensor:
            sequences = [experience.sequences[i] for i in micro]
            starts = [experience.prompt_lengths[i] for i in micro]
            if micro:
                batch, labels = response_labels(sequences, starts)
                boundary = len(labels)
                batch, labels = join(batch, extra[0]), torch.cat((labels, extra[1]))
            else:
                (batch, labels), boundary = extra, 0
            out = self.engine(batch.to(self.device), labels.to(self.device))
            pretrain = out[boundary:].sum()
            loss = self.ppo.pretrain_coefficient * pretrain / max(pretrain_tokens, 1.0)
            if micro:
                mask = torch.cat([experience.masks[i] for i in micro]).to(self.device)
                old = torch.cat([experience.old_logprobs[i] for i in micro]).to(self.device)
                advantages = torch.cat([experience.advantages[i] for i in micro]).to(self.device)
                new = -torch.cat(per_response(out, sequences, starts))
                each, clipped = policy_loss(new[mask], old[mask], advantages[mask], self.ppo.clip_range)
                loss = loss + each.sum() / tokens
                sums[:3] += torch.tensor([each.sum().item(), clipped.sum().item(), float(mask.sum())])
            sums[3:] += torch.tensor([pretrain.item(), float((extra[1] != IGNORE).sum())])
            return loss

        return compute

    def _pretrain_batches(self, cursor: int, tokens: int, micros: int) -> tuple[list[tuple[Packed, Tensor]], int]:
        """This rank's pre-training sequences, dealt to its micro-batches, and the cursor behind those of all ranks."""
        if self.mixture is None or self.settings.pretrain is None:
            return [nothing() for _ in range(micros)], cursor
        count = max(1, round(self.ppo.pretrain_share * tokens / self.settings.pretrain.context))
        share = list(range(cursor, cursor + count))[self.rank :: self.world]
        dealt = [share[i::micros] for i in range(micros)]
        return [
            self.mixture.pack([piece for n in numbers for piece in self.mixture.pieces(n)]) if numbers else nothing()
            for numbers in dealt
        ], cursor + count

    @timed
    def weights(self) -> tuple[WeightMessage | None, Figures]:
        """All weights in one message from rank 0. Every rank calls it."""
        parts = (to_llama(part, self.shape) for part in self.gather(BUCKET_BYTES))
        if self.rank:
            for _ in parts:  # the ranks meet in every part
                pass
            return None, {}
        return pack(parts, self.version)

    @timed
    def set_version(self, version: int) -> tuple[None, Figures]:
        """After `restore`: DeepSpeed's checkpoint does not know our numbering."""
        self.version = version
        return None, {}

    @timed
    def export(self, folder: Path) -> tuple[None, Figures]:
        """Write the model in InternLM2's format, fp32. Every rank calls it."""
        full = {name: tensor for part in self.gather(BUCKET_BYTES) for name, tensor in part.items()}
        if self.rank == 0:
            model = CausalLM(self.shape)
            model.load_state_dict(full)
            save_internlm2(model, folder)
        return None, {}


def _open_mixture(mix: PretrainMix, seed: int) -> Mixture:
    from ilm_ray.training.pretrain import open_sources

    return Mixture(open_sources(mix.folder, "train"), mix.shares, mix.context, seed + 300)
