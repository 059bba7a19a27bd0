"""InternEvo's way to share optimizer states, as against FSDP2: it explains InternEvo's figures and is never chosen.

Its `HybridZeroOptimizer` (internlm/solver/optimizer/hybrid_zero_optim.py, InternLM/InternEvo at c628a8c) gives whole
tensors to ranks, the largest first to the rank that has least. Each owner's gradients are reduced to it over all ranks,
and each owner's weights are broadcast to all ranks: two collectives an owner, where FSDP2 has two a block. NCCL's rings
take a time for these that grows with the number of ranks.
"""

from ilm_ray.training.plan.devices import Device, RankGroup


def owner_broadcast_seconds(tensors: int, parameters: int, ranks: int, device: Device) -> float:
    """Seconds of a step for reducing gradients to owners and broadcasting weights from them, both in bf16.

    tensors: of the model, `parameters` numbers in all. No overlap is assumed: InternEvo's configuration overlaps
    reductions with the backward (`overlap_sync_grad`) and no broadcasts.
    """
    group, owners = RankGroup(ranks, 1), min(ranks, tensors)
    # In a ring a broadcast or a reduction passes every byte through each rank once.
    return 2 * (owners * group.ring_latency(device) + 2 * parameters / group.ring_rate(device))
