"""Data that moves between the groups of PPO: prompts, rollouts, experience. Whole sequences in lists, never padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.loss import IGNORE


@dataclass(frozen=True)
class Prompt:
    """A question: its tokens end where the answer begins."""

    id: str
    domain: str
    ids: list[int]
    # Reward functions get this beside the answer, a JSON object: `prompt` (messages) and `metadata`.
    row: str = "{}"


@dataclass(frozen=True)
class Rollouts:
    """Answers of a rollout engine, stamped with the version of the weights that gave them."""

    prompts: list[Prompt]
    responses: list[list[int]]  # at least one token each, the stop token included
    behaviour: list[Tensor]  # log-probabilities under the untruncated distribution, fp32, one a response token
    version: int

    def __post_init__(self) -> None:
        if any(len(r) != len(b) or not r for r, b in zip(self.responses, self.behaviour, strict=True)):
            raise ValueError("every response needs at least one token and a log-probability for each")

    @property
    def groups(self) -> list[tuple[str, tuple[int, ...]]]:
        """The prompt of each answer: answers to the same prompt are a group."""
        return [(p.id, tuple(p.ids)) for p in self.prompts]

    def only(self, numbers: Sequence[int]) -> "Rollouts":
        """The answers of these numbers, in this order."""
        return Rollouts(
            [self.prompts[n] for n in numbers],
            [self.responses[n] for n in numbers],
            [self.behaviour[n] for n in numbers],
            self.version,
        )

    @property
    def sequences(self) -> list[list[int]]:
        return [p.ids + r for p, r in zip(self.prompts, self.responses, strict=True)]

    @property
    def prompt_lengths(self) -> list[int]:
        return [len(p.ids) for p in self.prompts]


def merge(parts: Sequence[Rollouts]) -> Rollouts:
    """The rollouts of all engines, in engine order. Raises ValueError where they come from different weights."""
    versions = {part.version for part in parts}
    if len(versions) != 1:
        raise ValueError(f"rollouts of different weight versions {sorted(versions)} in one iteration")
    return Rollouts(
        [p for part in parts for p in part.prompts],
        [r for part in parts for r in part.responses],
        [b for part in parts for b in part.behaviour],
        versions.pop(),
    )


@dataclass(frozen=True)
class Experience:
    """Input of policy and critic. One fp32 tensor (bool for masks) a sequence, one entry a response token."""

    sequences: list[list[int]]  # prompt and response
    prompt_lengths: list[int]
    masks: list[Tensor]  # False: the policy did not choose this token
    old_logprobs: list[Tensor]
    old_values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]
    reference: list[Tensor]  # log-probabilities
    weights: list[Tensor]  # of each token in the policy's loss: importance weights
    version: int


def response_labels(sequences: Sequence[list[int]], prompt_lengths: Sequence[int]) -> tuple[Packed, Tensor]:
    """Packed sequences, and for the positions that predict a response token that token, IGNORE elsewhere (tokens)."""
    labels: list[int] = []
    for ids, n in zip(sequences, prompt_lengths, strict=True):
        labels += [IGNORE] * (n - 1) + ids[n:] + [IGNORE]
    return Packed.of(list(sequences)), torch.tensor(labels)


def per_response(flat: Tensor, sequences: Sequence[list[int]], prompt_lengths: Sequence[int]) -> list[Tensor]:
    """Cut a value per packed position (tokens, ...) into one tensor a response: at the positions that predict it."""
    out, start = [], 0
    for ids, n in zip(sequences, prompt_lengths, strict=True):
        out.append(flat[start + n - 1 : start + len(ids) - 1])
        start += len(ids)
    return out


def gather_numbered(parts: Sequence[dict[int, Tensor]]) -> list[Tensor]:
    """One list in the order of the sequences, from the numbered values of each rank."""
    merged = {number: value for part in parts for number, value in part.items()}
    return [merged[number] for number in range(len(merged))]


def join(first: Packed, second: Packed) -> Packed:
    """Two packs, one after the other."""
    return Packed(
        torch.cat((first.tokens, second.tokens)),
        torch.cat((first.positions, second.positions)),
        torch.cat((first.cu_seqlens, second.cu_seqlens[1:] + first.cu_seqlens[-1])),
        max(first.max_seqlen, second.max_seqlen),
    )


def nothing() -> tuple[Packed, Tensor]:
    """A pack without labels, which a rank sends through the model while others have work left."""
    return Packed.of([[0, 0]]), torch.full((2,), IGNORE)
