"""A group: the ranks of one role on one placement group, started together; every wait has a deadline.

Contract of an actor class: `__init__(rank, world, settings)` does nothing slow, `build()` loads the model, and every
method is `@timed` and returns `(payload, figures)`. The payload (tensors) stays in the object store and goes from group
to group by reference; the driver only fetches the figures: numbers, strings, lists and dicts of them.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.evidence import log_tail, state_of
from ilm_ray.base.errors import UserError

Figures = dict[str, Any]
# A placement group that fits is placed in well under a second, so one that does not is refused soon.
PLACEMENT_DEADLINE_S = 15.0
# The ranks beside a killed one see a broken connection before Ray knows of the death.
DEATH_NOTICE_S = 3.0


@dataclass(frozen=True)
class LostRank:
    """A rank that has to be replaced; method: its call under way; fate: died, silent or out of reach."""

    group: str
    rank: int
    method: str
    fate: str


class GroupError(RuntimeError):
    """Ranks died, failed or did not answer in time: their names, their state, the tail of their log.

    lost: the ranks that new ones could replace. Empty where a method raised: it would raise again.
    """

    def __init__(self, message: str, lost: Sequence[LostRank]) -> None:
        super().__init__(message)
        self.lost = tuple(lost)


def timed(method: Callable[..., tuple[Any, Figures]]) -> Callable[..., tuple[Any, Figures]]:
    """For a method of an actor that returns (payload, figures): adds its `seconds` to the figures."""

    @functools.wraps(method)
    def with_seconds(*args: Any, **kwargs: Any) -> tuple[Any, Figures]:
        started = time.monotonic()
        payload, figures = method(*args, **kwargs)
        return payload, {**figures, "seconds": round(time.monotonic() - started, 4)}

    return with_seconds


@dataclass(frozen=True)
class Role:
    """Settings of a group: `ranks` actors of class `actor`, named `<name>-<rank>`."""

    name: str
    actor: type
    settings: Any
    ranks: int = 1
    cpus: float = 0.2  # on a CPU the ranks mostly wait for each other; they share cores
    gpus: float = 0.0
    env: dict[str, str] = field(default_factory=dict)
    rendezvous: bool = False  # the ranks form one process group; the class is an `actors.ppo.member.Member`
    copy_ranks: int = 1  # ranks in a row that hold one copy of a model: on one node, in a process group of their own
    turn: int = 0  # roles of a later turn build when those of earlier ones have

    @property
    def members(self) -> int:
        """Ranks of a process group, where the role has any."""
        return self.ranks if self.rendezvous else self.copy_ranks


@dataclass(frozen=True)
class Call:
    """One method called on every rank of a group, which `collect` waits for."""

    group: "ActorGroup"
    method: str
    needs: list[ray.ObjectRef]  # payloads of other groups among the arguments
    payloads: list[ray.ObjectRef]
    receipts: list[ray.ObjectRef]


class ActorGroup:
    """Handles of a role's ranks. `shared`: other roles' ranks lie on `placement` too, and it outlives this group."""

    def __init__(self, role: Role, placement: PlacementGroup, namespace: str, shared: bool) -> None:
        self.role, self.placement, self.shared = role, placement, shared
        self.names = [f"{role.name}-{rank}" for rank in range(role.ranks)]
        self.actors = [
            ray.remote(role.actor)
            .options(
                name=name,
                namespace=namespace,
                num_cpus=role.cpus,
                num_gpus=role.gpus,
                runtime_env={"env_vars": role.env} if role.env else None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement, placement_group_bundle_index=rank if shared else rank // role.copy_ranks
                ),
            )
            .remote(rank, role.ranks, role.settings)
            for rank, name in enumerate(self.names)
        ]

    def start(self, method: str, *args: Any) -> Call:
        """Call a method on every rank with the same arguments; object references among them are resolved there."""
        return self._start(method, [args] * len(self.actors))

    def start_each(self, method: str, args: Sequence[tuple[Any, ...]]) -> Call:
        """Call a method with arguments of its own on each rank."""
        return self._start(method, args)

    def _start(self, method: str, args: Sequence[tuple[Any, ...]]) -> Call:
        pairs = [
            getattr(actor, method).options(num_returns=2).remote(*arguments)
            for actor, arguments in zip(self.actors, args, strict=True)
        ]
        needs = list({item: None for arguments in args for item in arguments if isinstance(item, ray.ObjectRef)})
        return Call(self, method, needs, [payload for payload, _ in pairs], [receipt for _, receipt in pairs])

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        if not self.shared:
            remove_placement_group(self.placement)


def start_groups(
    roles: Sequence[Role],
    namespace: str,
    deadline_s: float,
    placement_s: float = PLACEMENT_DEADLINE_S,
    shared: PlacementGroup | None = None,
) -> dict[str, ActorGroup]:
    """Place and start all roles at the same time and wait until every rank has built its model, turn by turn.

    shared: a placement of `place_together` instead of one for each role. Raises UserError where the cluster has no room
    within `placement_s`, GroupError where a rank does not come up within `deadline_s`; all roles are stopped then.
    """
    if shared is not None:
        _wait_for_room(shared, roles, time.monotonic() + placement_s)
    placements = _place(roles, placement_s) if shared is None else dict.fromkeys((r.name for r in roles), shared)
    groups: dict[str, ActorGroup] = {}
    try:
        for role in roles:
            groups[role.name] = ActorGroup(role, placements[role.name], namespace, shared is not None)
        meeting = [group for group in groups.values() if group.role.rendezvous or group.role.copy_ranks > 1]
        begun = _meet(meeting, deadline_s)
        for turn in sorted({role.turn for role in roles}):
            begun += [group.start("build") for group in groups.values() if group.role.turn == turn]
            collect(begun, deadline_s)
            begun = []
    except BaseException:
        stop_groups(groups)
        for name, placement in placements.items():
            if name not in groups and shared is None:
                remove_placement_group(placement)
        raise
    return groups


def _meet(groups: Sequence[ActorGroup], deadline_s: float) -> list[Call]:
    """Open a store for each process group of these groups, and let its ranks join it there.

    A rank waits for the others twice as long as the driver waits for it. Else the ranks beside a silent one might raise
    first, and an exception of a method is no loss that a new rank makes good.
    """
    opened, begun = list[Call](), list[Call]()
    for group in groups:
        ranks, members = range(group.role.ranks), group.role.members
        opened.append(group.start_each("open_store", [(0 if rank % members else members,) for rank in ranks]))
    for group, stores in zip(groups, collect(opened, deadline_s), strict=True):
        ranks, members = range(group.role.ranks), group.role.members
        places = [(stores[rank - rank % members], rank % members, members, 2 * deadline_s) for rank in ranks]
        begun.append(group.start_each("join", places))
    return begun


def stop_groups(groups: dict[str, ActorGroup]) -> None:
    """End all ranks of all groups and give their placement groups back."""
    for group in groups.values():
        group.stop()


def collect(calls: Sequence[Call], deadline_s: float) -> list[list[Figures]]:
    """Wait for calls, which may depend on each other; returns their figures, one list of ranks a call.

    Raises GroupError as soon as a rank fails or dies, or when `deadline_s` is over; it names the guilty ranks.
    """
    waiting = {receipt: (call, rank) for call in calls for rank, receipt in enumerate(call.receipts)}
    figures: dict[ray.ObjectRef, Figures] = {}
    until = time.monotonic() + deadline_s
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, until - time.monotonic()))
        if not ready:
            raise _silence(list(waiting.values()), deadline_s)
        call, rank = waiting.pop(ready[0])
        try:
            value = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            raise _failure(calls, call, rank, error) from error
        figures[ready[0]] = _plain(value, f"{call.group.names[rank]}.{call.method}")
    return [[figures[receipt] for receipt in call.receipts] for call in calls]


def _plain(value: Any, where: str) -> Any:
    """Refuse to let anything but numbers, strings and containers of them reach the driver."""
    if isinstance(value, dict):
        return {key: _plain(item, where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{where} hands a {type(value).__name__} to the driver; only plain figures may go there")


def place_together(roles: Sequence[Role]) -> PlacementGroup:
    """One placement for all roles, not waited for: rank k of each of them lies in bundle k.

    A bundle has whole GPUs: parts of two bundles might lie on one GPU, and NCCL lets no two ranks of a group share it.
    """
    bundles = [
        _resources([role for role in roles if rank < role.ranks]) for rank in range(max(role.ranks for role in roles))
    ]
    whole = [{name: math.ceil(n) if name == "GPU" else n for name, n in bundle.items()} for bundle in bundles]
    return placement_group(whole, strategy="PACK")


def _place(roles: Sequence[Role], deadline_s: float) -> dict[str, PlacementGroup]:
    placements = dict[str, PlacementGroup]()
    for role in roles:
        bundles = [_resources([role] * role.copy_ranks)] * (role.ranks // role.copy_ranks)
        placements[role.name] = placement_group(bundles, strategy="PACK")
    until = time.monotonic() + deadline_s
    try:
        for role in roles:
            _wait_for_room(placements[role.name], [role], until)
    except UserError:
        for placement in placements.values():
            remove_placement_group(placement)
        raise
    return placements


def _resources(roles: Sequence[Role]) -> dict[str, float]:
    """CPUs and GPUs of one rank of each role."""
    cpus, gpus = sum(role.cpus for role in roles), sum(role.gpus for role in roles)
    return {"CPU": round(cpus, 4), **({"GPU": round(gpus, 4)} if gpus else {})}  # Ray counts in ten-thousandths


def _wait_for_room(placement: PlacementGroup, roles: Sequence[Role], until: float) -> None:
    if placement.wait(max(0.0, until - time.monotonic())):
        return
    free = ray.available_resources()
    demand = ", ".join(
        f"{role.ranks} rank(s) of '{role.name}' ({role.cpus:g} CPU, {role.gpus:g} GPU each)" for role in roles
    )
    raise UserError(
        f"no room for the {demand}: the cluster has {free.get('CPU', 0.0):g} CPU and {free.get('GPU', 0.0):g} GPU "
        "free; lower ppo.*_ranks, give the cluster more or, where that is enough, find the node that does not answer"
    )


def lost_ranks(groups: Iterable[ActorGroup], method: str = "") -> list[LostRank]:
    """The ranks that are dead by Ray's own record; `method` is noted of each."""
    return [
        LostRank(group.role.name, rank, method, "died")
        for group in groups
        for rank, actor in enumerate(group.actors)
        if state_of(actor).get("State") == "DEAD"
    ]


# Jobs print the last line of these messages, so it names ranks and reason.
def _silence(late: list[tuple[Call, int]], deadline_s: float) -> GroupError:
    """Blame the ranks that had all their arguments; the others only wait for them."""
    guilty = [(call, rank) for call, rank in late if _has_all(call)] or late
    names = ", ".join(call.group.names[rank] for call, rank in guilty)
    text = [*(_describe(call, rank) for call, rank in guilty), f"no answer within {deadline_s:g} s from {names}"]
    return GroupError("\n".join(text), [_lost(call, rank, "silent") for call, rank in guilty])


def _has_all(call: Call) -> bool:
    return not call.needs or not ray.wait(call.needs, num_returns=len(call.needs), timeout=0)[1]


def _failure(calls: Sequence[Call], call: Call, rank: int, error: Exception) -> GroupError:
    """Blame the dead ranks of all groups involved, else the rank whose method raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    until = time.monotonic() + DEATH_NOTICE_S
    while not (dead := _dead(calls)) and time.monotonic() < until:
        time.sleep(0.05)
    if dead:
        text = [*(_describe(last, r) for last, r in dead.values()), f"{', '.join(dead)} died: {reason}"]
        return GroupError("\n".join(text), [_lost(last, r, "died") for last, r in dead.values()])
    # An exception of the method would come again; any other is Ray's loss of an actor's answer or argument.
    raised = isinstance(error, ray.exceptions.RayTaskError)
    text = [_describe(call, rank), f"{call.group.names[rank]} failed: {reason}"]
    return GroupError("\n".join(text), [] if raised else [_lost(call, rank, "out of reach")])


def _dead(calls: Sequence[Call]) -> dict[str, tuple[Call, int]]:
    """Name -> (its last call, rank) of the dead ranks of these calls."""
    dead: dict[str, tuple[Call, int]] = {}
    for call in reversed(calls):
        for lost in lost_ranks([call.group]):
            dead.setdefault(call.group.names[lost.rank], (call, lost.rank))
    return dead


def _lost(call: Call, rank: int, fate: str) -> LostRank:
    return LostRank(call.group.role.name, rank, call.method, fate)


def _describe(call: Call, rank: int) -> str:
    state = state_of(call.group.actors[rank])
    head = f"{call.group.names[rank]} in {call.method}(): {state.get('State', 'unknown')}, pid {state.get('Pid', '?')}"
    tail = log_tail(state)
    return head + ("\n    " + "\n    ".join(tail) if tail else "")
