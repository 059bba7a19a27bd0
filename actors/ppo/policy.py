"""The policy: log-probabilities of rollouts, clipped PPO steps with pre-training loss, full weights for the engines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from actors.group import Figures, timed
from actors.ppo.channel import SENDER, Channel, Meeting
from actors.ppo.temperature import Temperature
from actors.ppo.weights import BUCKET_BYTES, WeightMessage, announce, pack
from actors.ppo.zero import ZeroRank
from ilm_ray.alignment.ppo.arithmetic import mixed_micro_batches, plan_updates
from ilm_ray.alignment.ppo.assemble import token_policy_loss
from ilm_ray.alignment.ppo.estimators import token_shares
from ilm_ray.alignment.ppo.experience import Experience, Rollouts, join, merge, nothing, per_response, response_labels
from ilm_ray.alignment.pretrain_data import PretrainMix
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.model.internlm2 import CausalLM, Packed
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.names import Weights, to_engine
from ilm_ray.model.weights import load_causal, save_internlm2

Result = TypeVar("Result")


@dataclass(frozen=True)
class PolicySettings:
    """Settings of a policy's rank; micro_tokens: most tokens of a forward and backward."""

    ppo: PPOConfig
    model: Path
    seed: int
    micro_tokens: int
    loss_chunk: int  # tokens whose logits exist at once
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
        self.channel: Channel | None = None
        model = load_causal(s.model, self.device, self.dtype)
        model.output.loss_chunk = s.loss_chunk
        self.shape, self.version = model.shape, 0
        self.temperature = Temperature(model, s.ppo.temperature)
        self.make_engine(model, s.ppo.policy_lr)
        self.mixture = s.pretrain.open(s.seed + 300) if s.pretrain else None
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

        Loss of a step: mean clipped loss over its response tokens, by `ppo.loss_mean`, + pretrain_coefficient * mean
        next-token loss over its pre-training tokens; both means are global.
        """
        ppo, lengths = self.ppo, list(map(len, experience.sequences))
        sums = torch.zeros(5, dtype=torch.float64)
        updates, norm = 0, None
        for epoch in range(ppo.ppo_epochs):
            for numbers in plan_updates(lengths, ppo.mini_batches, [self.settings.seed, iteration, epoch]):
                mixed = self._mixed(sum(lengths[i] for i in numbers))
                micros = mixed_micro_batches(lengths, numbers, mixed, self._context, self.world, self.micro_tokens)
                rollouts = [[i for i in micro if i < len(lengths)] for micro in micros[self.rank]]
                extra = [
                    self._pretrain_batch([cursor + i - len(lengths) for i in micro if i >= len(lengths)])
                    for micro in micros[self.rank]
                ]
                cursor += mixed
                pretrain_tokens = self.total(float(sum(_counted(more) for more in extra)))[0]
                counts = [int(experience.masks[i].sum()) for i in numbers]
                shares = dict(zip(numbers, token_shares(counts, ppo.loss_mean, ppo.max_new_tokens), strict=True))
                losses = [
                    self._loss(experience, micro, more, shares, pretrain_tokens, sums)
                    for micro, more in zip(rollouts, extra, strict=True)
                ]
                norm = self.update(losses, iteration)
                updates += 1
        self.version += 1
        loss, clipped, counted, pretrain, pretrained = self.total(*sums.tolist())
        return None, {
            "policy_loss": loss / updates,
            "clip_fraction": clipped / max(counted, 1.0),
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
        extra: tuple[Packed, Tensor] | None,
        shares: dict[int, float],
        pretrain_tokens: float,
        sums: Tensor,
    ) -> Callable[[], Tensor]:
        """Loss of one micro-batch, both parts in one forward. shares: of a token of each sequence in the step's loss.

        Adds to `sums`: PPO loss, clipped tokens, tokens; pre-training loss, its tokens.
        """

        def compute() -> Tensor:
            sequences = [experience.sequences[i] for i in micro]
            starts = [experience.prompt_lengths[i] for i in micro]
            # An empty micro-batch goes through the model too: ranks that share it must meet.
            batch, labels = response_labels(sequences, starts) if micro else extra or nothing()
            boundary = len(labels) if micro else 0
            if micro and extra is not None:
                batch, labels = join(batch, extra[0]), torch.cat((labels, extra[1]))
            self.temperature.rows = boundary  # pre-training has none
            out = self.engine(batch.to(self.device), labels.to(self.device))
            self.temperature.rows = None
            pretrain = out[boundary:].sum()
            loss = self.ppo.pretrain_coefficient * pretrain / max(pretrain_tokens, 1.0)
            if micro:
                masks = [experience.masks[i] for i in micro]
                mask = torch.cat(masks).to(self.device)
                old, advantages, weights, reference = (
                    torch.cat([part[i] for i in micro]).to(self.device)[mask]
                    for part in (
                        experience.old_logprobs,
                        experience.advantages,
                        experience.weights,
                        experience.reference,
                    )
                )
                new = -torch.cat(per_response(out, sequences, starts))[mask]
                counts = [int(m.sum()) for m in masks]
                each, clipped = token_policy_loss(self.ppo, new, old, advantages, weights, reference, counts)
                share = torch.cat([m.new_full((n,), shares[i], dtype=torch.float32)
                                   for i, m, n in zip(micro, masks, counts, strict=True)])  # fmt: skip
                step_loss = (each * share.to(self.device)).sum()
                loss = loss + step_loss
                sums[:3] += torch.tensor([step_loss.item(), clipped.sum().item(), float(mask.sum())])
            sums[3:] += torch.tensor([pretrain.item(), _counted(extra)])
            return loss

        return compute

    @property
    def _context(self) -> int:
        return self.settings.pretrain.context if self.settings.pretrain else 1

    def _mixed(self, tokens: int) -> int:
        """Pre-training sequences of a step on so many tokens of rollouts."""
        return max(1, round(self.ppo.pretrain_share * tokens / self._context)) if self.mixture else 0

    def _pretrain_batch(self, numbers: list[int]) -> tuple[Packed, Tensor] | None:
        """Pre-training sequences `numbers` of the mixture, packed; None where there are none."""
        if not numbers or self.mixture is None:
            return None
        return self.mixture.pack([piece for number in numbers for piece in self.mixture.pieces(number)])

    @timed
    def weights(self) -> tuple[WeightMessage | None, Figures]:
        """All weights in one message from rank 0, through the object store. Every rank calls it."""
        return self._from_rank_0(lambda parts: pack(parts, self.version)) or (None, {})

    @timed
    def announce(self) -> tuple[WeightMessage | None, Figures]:
        """The message for the weights that `send_weights` broadcasts, from rank 0. Every rank calls it."""
        return self._from_rank_0(lambda parts: announce(parts, self.version)) or (None, {})

    @timed
    def open_channel(self, members: int) -> tuple[None, Figures]:
        """Rank 0 opens the store where the members of a new channel meet."""
        if self.rank:
            return None, {}
        self.meeting = Meeting(members)
        return None, {"host": self.meeting.host, "port": self.meeting.port}

    @timed
    def join_channel(self, place: tuple[str, int], members: int) -> tuple[None, Figures]:
        """Rank 0 becomes the channel's sender, in the place of an earlier channel."""
        if self.rank == SENDER:
            if self.channel is not None:
                self.channel.close()
            self.channel = Channel(place, SENDER, members, self.device, self.ppo.deadline_s)
        return None, {}

    @timed
    def send_weights(self) -> tuple[None, Figures]:
        """Broadcast all weights from rank 0, bucket by bucket as announced. Every rank calls it."""

        def send(parts: Iterator[Weights]) -> None:
            if self.channel is None:
                raise RuntimeError("the policy has not joined a channel for weights")
            for part in parts:
                self.channel.send(part)

        self._from_rank_0(send)
        return None, {}

    def _from_rank_0(self, act: Callable[[Iterator[Weights]], Result]) -> Result | None:
        """`act` on rank 0, on the weights under LLaMA names in buckets; None elsewhere."""
        dtype = torch.bfloat16 if self.ppo.sampled_in == "bf16" else torch.float32  # digests are of what engines hold
        parts = (to_engine(_cast(part, dtype), self.shape) for part in self.gather(BUCKET_BYTES))
        if self.rank == SENDER:
            return act(parts)
        for _ in parts:  # the ranks meet in every part
            pass
        return None

    @timed
    def set_version(self, version: int) -> tuple[None, Figures]:
        """After `restore`: DeepSpeed's checkpoint does not know our numbering."""
        self.version = version
        return None, {}

    @timed
    def export(self, folder: Path) -> tuple[None, Figures]:
        """Write the model in InternLM2's format, fp32. Every rank calls it."""
        full = {name: tensor.cpu().float() for part in self.gather(BUCKET_BYTES) for name, tensor in part.items()}
        if self.rank == 0:
            with torch.device("meta"):
                model = CausalLM(self.shape)
            model.load_state_dict(full, assign=True)
            save_internlm2(model, folder, base=self.settings.model)
        return None, {}


def _cast(part: Weights, dtype: torch.dtype) -> Weights:
    return {name: tensor.to(dtype) for name, tensor in part.items()}


def _counted(batch: tuple[Packed, Tensor] | None) -> float:
    """Labels of a pre-training batch."""
    return 0.0 if batch is None else float((batch[1] != IGNORE).sum())
