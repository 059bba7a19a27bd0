"""A group: the ranks of one role on one placement group, started together; every wait has a deadline.

Contract of an actor class: `__init__(rank, world, settings)` does nothing slow, `build()` loads the model, and every
method is a `@step`: it returns `(payload, figures)`. The payload (tensors) stays in the object store and goes from
group to group by reference; the driver only ever fetches the figures: numbers, words, lists and dicts of them.
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
# A placement group that fits is placed in well under a second; what cannot be placed is said at once.
PLACEMENT_DEADLINE_S = 15.0
# The ranks beside a killed one see a broken connection before Ray knows of the death.
DEATH_NOTICE_S = 3.0


@dataclass(frozen=True)
class Lost:
    """A rank that a run has to do without: what it was in, and what became of it (died, silent, out of reach)."""

    group: str
    rank: int
    method: str
    fate: str


class GroupError(RuntimeError):
    """Ranks died, failed or did not answer in time: which ones, their state, the tail of their log.

    lost: those that new ones could replace. Empty where a method raised: it would raise again.
    """

    def __init__(self, message: str, lost: Sequence[Lost]) -> None:
        super().__init__(message)
        self.lost = tuple(lost)


def step(method: Callable[..., tuple[Any, Figures]]) -> Callable[..., tuple[Any, Figures]]:
    """An actor method that returns (payload, figures); `seconds` is added to the figures."""

    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> tuple[Any, Figures]:
        started = time.monotonic()
        payload, figures = method(*args, **kwargs)
        return payload, {**figures, "seconds": round(time.monotonic() - started, 4)}

    return timed


@dataclass(frozen=True)
class Role:
    """What to start: `ranks` actors of class `actor`, named `<name>-<rank>`."""

    name: str
    actor: type
    settings: Any
    ranks: int = 1
    cpus: float = 0.2  # on a CPU the ranks mostly wait for each other; they share cores
    gpus: float = 0.0
    env: dict[str, str] = field(default_factory=dict)
    rendezvous: bool = False  # the ranks form one process group; the class has `open_store` and `join`


@dataclass(frozen=True)
class Work:
    """One method running on every rank of a group."""

    group: "Group"
    method: str
    needs: list[ray.ObjectRef]  # what other groups must have finished before
    payloads: list[ray.ObjectRef]
    receipts: list[ray.ObjectRef]


class Group:
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
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=rank),
            )
            .remote(rank, role.ranks, role.settings)
            for rank, name in enumerate(self.names)
        ]

    def start(self, method: str, *args: Any) -> Work:
        """Call a method on every rank with the same arguments; object references among them are resolved there."""
        return self._start(method, [args] * len(self.actors))

    def start_each(self, method: str, args: Sequence[tuple[Any, ...]]) -> Work:
        """Call a method with arguments of its own on each rank."""
        return self._start(method, args)

    def _start(self, method: str, args: Sequence[tuple[Any, ...]]) -> Work:
        pairs = [
            getattr(actor, method).options(num_returns=2).remote(*mine)
            for actor, mine in zip(self.actors, args, strict=True)
        ]
        needs = list({one: None for mine in args for one in mine if isinstance(one, ray.ObjectRef)})
        return Work(self, method, needs, [payload for payload, _ in pairs], [receipt for _, receipt in pairs])

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
) -> dict[str, Group]:
    """Place and start all roles at the same time and wait until every rank has built what it holds.

    shared: a placement of `place_together` instead of one for each role. Raises UserError where the cluster has no room
    within `placement_s`, GroupError where a rank does not come up within `deadline_s`. Nothing is left of the roles
    then.
    """
    if shared is not None:
        _wait_for_room(shared, roles, time.monotonic() + placement_s)
    placements = _place(roles, placement_s) if shared is None else dict.fromkeys((r.name for r in roles), shared)
    groups: dict[str, Group] = {}
    try:
        for role in roles:
            groups[role.name] = Group(role, placements[role.name], namespace, shared is not None)
        meeting = [group for group in groups.values() if group.role.rendezvous]
        stores = figures([group.start_each("open_store", _first_only(group)) for group in meeting], deadline_s)
        joins = [group.start("join", store[0]) for group, store in zip(meeting, stores, strict=True)]
        builds = [group.start("build") for group in groups.values()]
        figures([*joins, *builds], deadline_s)
    except BaseException:
        stop_groups(groups)
        for name, placement in placements.items():
            if name not in groups and shared is None:
                remove_placement_group(placement)
        raise
    return groups


def stop_groups(groups: dict[str, Group]) -> None:
    """End all ranks of all groups and give their placement groups back."""
    for group in groups.values():
        group.stop()


def figures(works: Sequence[Work], deadline_s: float) -> list[list[Figures]]:
    """Wait for works that may depend on each other; their figures, one list of ranks a work.

    Raises GroupError as soon as one rank fails or dies, or when `deadline_s` is over.
    """
    waiting = {receipt: (work, rank) for work in works for rank, receipt in enumerate(work.receipts)}
    found: dict[tuple[int, int], Figures] = {}
    number = {id(work): i for i, work in enumerate(works)}
    until = time.monotonic() + deadline_s
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, until - time.monotonic()))
        if not ready:
            raise _silence(waiting.values(), deadline_s)
        work, rank = waiting.pop(ready[0])
        try:
            value = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            raise _failure(works, work, rank, error) from error
        found[number[id(work)], rank] = _plain(value, f"{work.group.names[rank]}.{work.method}")
    return [[found[i, rank] for rank in range(len(work.receipts))] for i, work in enumerate(works)]


def _plain(value: Any, where: str) -> Any:
    """Refuse to let anything but numbers, words and containers of them reach the driver."""
    if isinstance(value, dict):
        return {key: _plain(item, where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{where} hands a {type(value).__name__} to the driver; only plain figures may go there")


def _first_only(group: Group) -> list[tuple[bool]]:
    return [(rank == 0,) for rank in range(group.role.ranks)]


def place_together(roles: Sequence[Role]) -> PlacementGroup:
    """One placement for all roles, asked for and not waited for: rank k of each of them lies in bundle k.

    A bundle with GPUs has whole ones: parts of two bundles might lie on one, and NCCL lets no two ranks of a group
    share a GPU.
    """
    bundles = [
        _resources([role for role in roles if rank < role.ranks]) for rank in range(max(role.ranks for role in roles))
    ]
    whole = [{name: math.ceil(n) if name == "GPU" else n for name, n in bundle.items()} for bundle in bundles]
    return placement_group(whole, strategy="PACK")


def _place(roles: Sequence[Role], deadline_s: float) -> dict[str, PlacementGroup]:
    placements = {role.name: placement_group([_resources([role])] * role.ranks, strategy="PACK") for role in roles}
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
    """What one rank of each role takes."""
    cpus, gpus = sum(role.cpus for role in roles), sum(role.gpus for role in roles)
    return {"CPU": round(cpus, 4), **({"GPU": round(gpus, 4)} if gpus else {})}  # Ray counts in ten-thousandths


def _wait_for_room(placement: PlacementGroup, roles: Sequence[Role], until: float) -> None:
    if placement.wait(max(0.0, until - time.monotonic())):
        return
    free = ray.available_resources()
    wanted = ", ".join(
        f"{role.ranks} rank(s) of '{role.name}' ({role.cpus:g} CPU, {role.gpus:g} GPU each)" for role in roles
    )
    raise UserError(
        f"no room for the {wanted}: the cluster has {free.get('CPU', 0.0):g} CPU and {free.get('GPU', 0.0):g} GPU "
        "free; lower ppo.*_ranks, give the cluster more or, where that is enough, find the node that does not answer"
    )


def lost_ranks(groups: Iterable[Group], method: str = "") -> list[Lost]:
    """The ranks that are dead by Ray's own record."""
    return [
        Lost(group.role.name, rank, method, "died")
        for group in groups
        for rank, actor in enumerate(group.actors)
        if state_of(actor).get("State") == "DEAD"
    ]


# The last line of both messages says it all: it is the one that a job prints.
def _silence(works: Iterable[tuple[Work, int]], deadline_s: float) -> GroupError:
    """Blame those who had all that they needed; the rest only wait for them."""
    late = list(works)
    guilty = [(work, rank) for work, rank in late if _has_all(work)] or late
    names = ", ".join(work.group.names[rank] for work, rank in guilty)
    text = [*(_describe(work, rank) for work, rank in guilty), f"no answer within {deadline_s:g} s from {names}"]
    return GroupError(
        "\n".join(text), [Lost(work.group.role.name, rank, work.method, "silent") for work, rank in guilty]
    )


def _has_all(work: Work) -> bool:
    return (
        len(ray.wait(work.needs, num_returns=len(work.needs), timeout=0)[0]) == len(work.needs) if work.needs else True
    )


def _failure(works: Sequence[Work], work: Work, rank: int, error: Exception) -> GroupError:
    """Blame the dead ones among all groups involved, else the rank whose method raised."""
    reason = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = reason[-1] if reason else type(error).__name__
    until = time.monotonic() + DEATH_NOTICE_S
    while not (dead := _dead(works)) and time.monotonic() < until:
        time.sleep(0.05)
    if dead:
        text = [*(_describe(other, r) for other, r in dead.values()), f"{', '.join(dead)} died: {why}"]
        return GroupError(
            "\n".join(text), [Lost(other.group.role.name, r, other.method, "died") for other, r in dead.values()]
        )
    name = work.group.names[rank]
    # What a method raised it will raise again; anything else is Ray's loss of an actor's answer or argument.
    raised = isinstance(error, ray.exceptions.RayTaskError)
    lost = [] if raised else [Lost(work.group.role.name, rank, work.method, "out of reach")]
    return GroupError("\n".join([_describe(work, rank), f"{name} failed: {why}"]), lost)


def _dead(works: Sequence[Work]) -> dict[str, tuple[Work, int]]:
    """Name -> (its last work, rank) of the ranks of these works that are dead."""
    found: dict[str, tuple[Work, int]] = {}
    for work in reversed(works):
        for lost in lost_ranks([work.group]):
            found.setdefault(work.group.names[lost.rank], (work, lost.rank))
    return found


def _describe(work: Work, rank: int) -> str:
    state = state_of(work.group.actors[rank])
    head = f"{work.group.names[rank]} in {work.method}(): {state.get('State', 'unknown')}, pid {state.get('Pid', '?')}"
    tail = log_tail(state)
    return head + ("\n    " + "\n    ".join(tail) if tail else "")
