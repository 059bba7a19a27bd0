"""Check that everything is there that a run needs. One line a check: ok, or what to do.

    python jobs/doctor.py [--preset nano] [--config FILE] [--run-dir DIR] [--port-base N] [key.sub=value ...]
    ray job submit --working-dir . -- python jobs/doctor.py --preset 7b --run-dir /shared/runs

The plain command looks at this machine, and at the ports of `cluster/local.sh`. Submitted, it looks at every node of
the cluster from inside. Exit code 0: all is well. 2: something is wrong. 1: the doctor itself failed.
"""

import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config import Config
from ilm_ray.config.named_data import needed, off_line, steps_off
from ilm_ray.config.road import in_effect, stages_on
from ilm_ray.config.run_folder import choose_settings
from ilm_ray.run import doctor, links
from ilm_ray.run.doctor import GIB, Finding
from ilm_ray.run.gpus import check_driver, listed_gpus
from ilm_ray.training.plan.fits import require_fit
from ilm_ray.training.plan.forecast import checkpoint_bytes
from ilm_ray.training.plan.shape import planned_shape
from jobs.frame.cluster import LocalRay, machine
from jobs.frame.command import Parser, run_command

DEADLINE_S = 120.0  # for each thing that nodes are asked; a first import of torch takes a minute on a busy machine
LINK_S = 30.0  # for two nodes to connect: well within DEADLINE_S, so that what is wrong is said and not only silence
CLOCK_READINGS = 5
OBJECT_BYTES = 64 * 2**20
PORTS = 8  # in a row, as cluster/local.sh takes them
LINK_ROUNDS = 4  # two, and two more where a round finds no sound link
READS = ("ray", "tokenizer", "model", "training", "ppo", "online")
LOGS = "look at `ray status` and at that node's logs in /tmp/ray/session_latest/logs"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the checks and the JSON line; return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        arguments = _parser().parse(argv)
        config, run_dir, note = choose_settings(
            arguments.preset, arguments.config, arguments.settings, arguments.run_dir
        )
        if note is not None:
            print(f"doctor: {note}", file=sys.stderr)
        checks = []
        for check in examine(config, run_dir, arguments.port_base):
            print(check.line(), flush=True)
            checks.append(check)
        wrong = [check.name for check in checks if not check.ok]
        summary |= {"preset": config.preset, "checks": len(checks), "wrong": wrong}
        if wrong:
            raise UserError(f"{len(wrong)} of {len(checks)} checks: {', '.join(wrong)}; the lines above say what to do")

    return run_command("doctor", work)


def examine(config: Config, run_dir: Path, port_base: int) -> Iterator[Finding]:
    """All checks, each as soon as it is made."""
    yield doctor.own_versions()
    yield check_driver(listed_gpus())
    yield _data(config)
    if "RAY_ADDRESS" not in os.environ:  # in a cluster these ports are its own
        yield doctor.check_ports(port_base, PORTS)
        if (store_mb := config.ray.object_store_mb) is not None:  # Ray's own default fits into what there is
            yield doctor.check_shared_memory(Path("/dev/shm"), store_mb * 2**20, started=False)
    with ExitStack() as stack:
        try:
            stack.enter_context(LocalRay(config))
        except Exception as error:  # a node that does not come up in time raises a bare Exception in Ray
            lines = str(error).strip().splitlines()
            yield Finding(
                "Ray",
                lines[-1] if lines else type(error).__name__,
                "look at the newest folder in /tmp/ray/*/logs; on a busy machine try again",
            )
            return
        yield from examine_cluster(config, run_dir)


def _data(config: Config) -> Finding:
    """Checks that the data of the whole road is named, and lists the steps that are off without it."""
    missing = needed(config, stages_on(config))
    off = {setting: why for setting, why in steps_off(config).items() if setting not in missing}
    facts = [*(["some that is needed is not named"] if missing else []), *([off_line(off)] if off else [])]
    line = "; ".join(facts) or "all that is needed or can be used is named"
    todo = f"set {', '.join(f'{setting} ({give})' for setting, give in missing.items())}" if missing else ""
    return Finding("data", line, todo)


def examine_cluster(config: Config, run_dir: Path) -> Iterator[Finding]:
    """Checks that need Ray: every node from inside, the links between them, room for the preset."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from actors.probe import Probe

    nodes = {f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})": node for node in ray.nodes() if node["Alive"]}
    probes = {
        name: ray.remote(Probe)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for name, node in nodes.items()
    }
    try:
        # A node where no probe starts is told once: each check below would wait for it.
        up, wrong = _answers("node", {name: probe.clock.remote() for name, probe in probes.items()})
        yield from wrong
        answering = {name: probes[name] for name in up}
        stores = {name: int(nodes[name]["Resources"].get("object_store_memory", 0)) for name in up}
        yield from _looks(config, run_dir, answering, stores)
        yield from _versions(answering)
        yield _object_store()
        yield from _clocks(answering)
        yield from _shared(run_dir, answering)
        yield from _links(answering)
    finally:
        for probe in probes.values():
            ray.kill(probe)
    yield _room(config)


def _answers(what: str, references: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """references: by node. The answers that came within DEADLINE_S, and the failures of the other nodes."""
    import ray

    until = time.monotonic() + DEADLINE_S
    answers, wrong = dict[str, Any](), list[Finding]()
    for node, reference in references.items():
        try:
            answers[node] = ray.get(reference, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.RayError as error:
            wrong.append(_unanswered(f"{what} {node}", error))
    return answers, wrong


def _unanswered(name: str, error: Exception, todo: str = LOGS) -> Finding:
    """The line of a check that Ray could not make. todo: what to do where the check itself raised."""
    from ray.exceptions import GetTimeoutError, RayTaskError

    if isinstance(error, GetTimeoutError):
        return Finding(name, f"no answer within {DEADLINE_S:.0f} s", LOGS)
    if isinstance(error, RayTaskError):
        error = error.cause  # without the traceback that Ray puts around it
    else:
        todo = LOGS
    lines = str(error).strip().splitlines()
    return Finding(name, f"{type(error).__name__}: {lines[0][:300] if lines else ''}", todo)


def _looks(config: Config, run_dir: Path, probes: Mapping[str, Any], stores: Mapping[str, int]) -> Iterator[Finding]:
    """Each node from inside. stores: bytes of its object store."""
    training, _ = checkpoint_bytes(planned_shape(config))
    need = training * (config.training.keep_checkpoints + 1)  # one more is written before the oldest goes
    references = {name: probe.look.remote(run_dir, need, stores[name]) for name, probe in probes.items()}
    looks, wrong = _answers("look at", references)
    yield from wrong
    for name, checks in looks.items():
        for check in checks:
            yield Finding(f"{check.name} on {name}", check.observation, check.todo)


def _versions(probes: Mapping[str, Any]) -> Iterator[Finding]:
    versions, wrong = _answers("same versions on", {name: probe.versions.remote() for name, probe in probes.items()})
    yield from wrong
    if versions:
        yield doctor.same_versions(versions)


def _object_store() -> Finding:
    """A large object goes into the store and comes back the same."""
    import ray

    sent = np.random.default_rng(0).integers(0, 256, OBJECT_BYTES, dtype=np.uint8)
    started = time.monotonic()
    try:
        same = bool((ray.get(ray.put(sent), timeout=DEADLINE_S) == sent).all())
    except ray.exceptions.RayError as error:
        return _unanswered("object store", error)
    observation = f"{OBJECT_BYTES // 2**20} MiB there and back in {time.monotonic() - started:.2f} s"
    return Finding("object store", observation, "" if same else "what came back differs: look at this machine's memory")


def _clocks(probes: Mapping[str, Any]) -> Iterator[Finding]:
    import ray

    skews = {}
    for name, probe in probes.items():
        try:
            skews[name] = _skew(probe)
        except ray.exceptions.RayError as error:
            yield _unanswered(f"clock of {name}", error)
    if skews:
        yield doctor.check_clocks(skews)


def _skew(probe: Any) -> tuple[float, float]:
    """The reading that is certain most."""
    import ray

    readings = []
    for _ in range(CLOCK_READINGS):
        before = time.time()
        remote = ray.get(probe.clock.remote(), timeout=DEADLINE_S)
        readings.append(doctor.skew_of(before, remote, time.time()))
    return min(readings, key=lambda reading: reading[1])


def _shared(run_dir: Path, probes: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks that every node reads a file that the driver writes into the run folder, or its parent."""
    where = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    token, path = uuid.uuid4().hex, where / f".doctor-{uuid.uuid4().hex}.tmp"
    try:
        write_text_atomic(path, token)
        references = {name: probe.reads.remote(path, token) for name, probe in probes.items()}
        seen, wrong = _answers(f"shared {where} on", references)
    except OSError as error:
        yield Finding(f"shared {where}", error.strerror or str(error), "choose a folder that you may write to")
        return
    finally:
        path.unlink(missing_ok=True)
    yield from wrong
    if seen:
        yield doctor.check_seen_by_all(where, seen)


def _links(probes: Mapping[str, Any]) -> list[Finding]:
    """Nodes in pairs, then each suspect with a sound node (see `links`)."""
    known = dict[links.Pair, links.Link]()
    for _ in range(LINK_ROUNDS):
        if not (pairs := links.next_pairs(list(probes), known)):
            break
        known |= _measured(pairs, probes)
    return links.judge(list(probes), known)


def _measured(pairs: Sequence[links.Pair], probes: Mapping[str, Any]) -> dict[links.Pair, links.Link]:
    """The links of pairs that share no node, measured at once."""
    import ray

    until, stores = time.monotonic() + DEADLINE_S, {pair: probes[pair[0]].open_store.remote(2) for pair in pairs}
    rates = {
        pair: [probes[name].bandwidth.remote(rank, stores[pair], LINK_S) for rank, name in enumerate(pair)]
        for pair in pairs
    }
    measured = dict[links.Pair, links.Link]()
    for pair, both in rates.items():
        try:
            measured[pair] = links.Link(min(ray.get(both, timeout=max(0.0, until - time.monotonic()))))
        except ray.exceptions.RayError as error:
            measured[pair] = links.Link(error=_unanswered("", error).observation)
    return measured


def _room(config: Config) -> Finding:
    """Places for workers and ranks, and GPU memory for every training (see `require_fit`)."""
    cluster = machine()
    card = f" ({cluster.gpu.name}, {cluster.gpu.memory / GIB:.1f} GiB)" if cluster.gpu else ""
    observation = (
        f"{cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs{card}, {cluster.memory_gib:.0f} GiB for preset {config.preset}"
    )
    try:
        require_fit(in_effect(config), cluster, stages_on(config))
    except UserError as error:
        return Finding("room", observation, str(error))
    return Finding("room", observation)


def _parser() -> Parser:
    about = "Is everything there that a run needs? One line a check."
    parser = Parser(prog="jobs/doctor.py", description=about, reads=READS)
    parser.add_argument("--port-base", type=int, default=26500, help="of cluster/local.sh (default 26500)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
