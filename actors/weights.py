"""Weights on their way from the policy to a rollout engine: one message, a version, a checksum."""

import hashlib
from dataclasses import dataclass

import torch

from ilm_ray.model.huggingface import Weights


@dataclass(frozen=True)
class WeightMessage:
    """All weights of a version under LLaMA names, on the CPU."""

    weights: Weights
    version: int


def checksum(weights: Weights) -> str:
    """Hash of names, shapes, types and bytes, whatever the order of the names."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
