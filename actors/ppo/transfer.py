"""Two ways of weights from the policy to the engines, with one contract.

An engine gets a message that names the version and every tensor's digest at the sender, and serves only after its own
checks (`Rollout.load_weights`). The object store works anywhere. A channel carries tensors from device to device; its
members must have a device each, for NCCL lets no two of a group share one.
"""

from typing import Literal, Protocol

from actors.group import ActorGroup, collect
from ilm_ray.base.errors import UserError
from ilm_ray.config.alignment import PPOConfig

Way = Literal["object_store", "broadcast"]


class Transfer(Protocol):
    """A way of weights to the engines."""

    def send(self, policy: ActorGroup, engines: ActorGroup, version: int) -> int:
        """Give all engines the policy's weights, which are of `version`; the bytes of one copy.

        Raises GroupError where ranks are lost or refuse, RuntimeError where the policy has another version.
        """


def way_of(ppo: PPOConfig, shared: bool, gpus: int) -> Way:
    """The way that the settings name; auto: broadcast between GPUs, the object store where there are none or where
    groups share them (`shared`). Raises UserError where the named way cannot work."""
    on_shared_gpus = shared and gpus > 0
    if ppo.weight_transfer == "broadcast" and on_shared_gpus:
        raise UserError(
            "ppo.weight_transfer=broadcast needs a GPU for each of PPO's ranks, and here groups share them; set it to "
            "auto"
        )
    if ppo.weight_transfer == "object_store" and ppo.engine_gpus > 1:
        raise UserError(
            f"ppo.engine_gpus={ppo.engine_gpus} has processes that do not reach the object store; set "
            "ppo.weight_transfer=auto"
        )
    if ppo.weight_transfer != "auto":
        return ppo.weight_transfer
    return "broadcast" if ppo.engine_gpus > 1 or (gpus and not shared) else "object_store"


class ThroughObjectStore:
    """Rank 0 of the policy puts the weights into the object store, engines take them from there."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s

    def send(self, policy: ActorGroup, engines: ActorGroup, version: int) -> int:
        sent = policy.start("weights")
        stamp = collect([sent], self.deadline_s)[0][0]
        _require(stamp["version"], version)
        collect([engines.start("load_weights", sent.payloads[0], version, stamp["checksum"])], self.deadline_s)
        return int(stamp["bytes"])


class ByBroadcast:
    """Rank 0 of the policy broadcasts the weights to all engines at once."""

    def __init__(self, deadline_s: float, engine_gpus: int) -> None:
        self.deadline_s, self.engine_gpus = deadline_s, engine_gpus
        self._linked: tuple[ActorGroup, ActorGroup] | None = None  # a replaced group has to be linked anew

    def send(self, policy: ActorGroup, engines: ActorGroup, version: int) -> int:
        self._link(policy, engines)
        message = policy.start("announce")
        stamp = collect([message], self.deadline_s)[0][0]
        _require(stamp["version"], version)
        try:
            sent = policy.start("send_weights")
            loaded = engines.start("load_weights", message.payloads[0], version, stamp["checksum"])
            collect([sent, loaded], self.deadline_s)
        except BaseException:
            self._linked = None  # members that waited in vain have left
            raise
        return int(stamp["bytes"])

    def _link(self, policy: ActorGroup, engines: ActorGroup) -> None:
        if self._linked == (policy, engines):
            return
        workers = self.engine_gpus
        members = 1 + len(engines.actors) * workers
        opened = collect([policy.start("open_channel", members)], self.deadline_s)[0][0]
        place = (opened["host"], opened["port"])
        joins = [(place, 1 + engine * workers, members) for engine in range(len(engines.actors))]
        collect(
            [policy.start("join_channel", place, members), engines.start_each("join_channel", joins)], self.deadline_s
        )
        self._linked = (policy, engines)


def transfer_of(way: Way, ppo: PPOConfig) -> Transfer:
    """The way by its name."""
    return ByBroadcast(ppo.deadline_s, ppo.engine_gpus) if way == "broadcast" else ThroughObjectStore(ppo.deadline_s)


def _require(sent: int, version: int) -> None:
    if sent != version:
        raise RuntimeError(f"policy sends version {sent}, the run is at {version}")
