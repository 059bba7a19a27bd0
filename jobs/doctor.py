"""Is everything there that a run needs? One line a check: ok, or what is wrong and what to do.

    python jobs/doctor.py [--preset nano] [--config FILE] [--run-dir DIR] [--port-base N] [key.sub=value ...]
    ray job submit --working-dir . -- python jobs/doctor.py --preset 7b --run-dir /shared/runs

The plain command looks at this machine, and at the ports of `cluster/local.sh`. Submitted, it looks at every node of
the cluster from inside. Exit code 0: all is well. 2: something is wrong. 1: the doctor itself failed.
"""

import itertools
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.config import Config
from ilm_ray.config.fit import check_fits
from ilm_ray.config.load import PRESETS
from ilm_ray.config.run_folder import choose_settings
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.errors import UserError
from ilm_ray.observe import doctor
from ilm_ray.observe.doctor import Check
from ilm_ray.pretrain.planning import checkpoint_bytes
from jobs._job import LocalRay, available_resources
from jobs._plain import Parser, run_plain

DEADLINE_S = 120.0  # for each thing that nodes are asked; a first import of torch takes a minute on a busy machine
CLOCK_READINGS = 5
OBJECT_BYTES = 64 * 2**20
PORTS = 8  # in a row, as cluster/local.sh takes them
MAX_PAIRS = 16  # of nodes whose link is measured: all with the first one


def main(argv: Sequence[str] | None = None) -> int:
    """Print the checks and the JSON line; return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        arguments = _parser().parse_args(argv)
        config, run_dir, said = choose_settings(
            arguments.preset, arguments.config, arguments.settings, arguments.run_dir
        )
        if said is not None:
            print(f"doctor: {said}", file=sys.stderr)
        checks = []
        for check in examine(config, run_dir, arguments.port_base):
            print(check.line(), flush=True)
            checks.append(check)
        wrong = [check.name for check in checks if not check.ok]
        summary |= {"preset": config.preset, "checks": len(checks), "wrong": wrong}
        if wrong:
            raise UserError(f"{len(wrong)} of {len(checks)} checks: {', '.join(wrong)}; the lines above say what to do")

    return run_plain("doctor", work)


def examine(config: Config, run_dir: Path, port_base: int) -> Iterator[Check]:
    """All checks, each as soon as it is made."""
    yield doctor.own_versions()
    if "RAY_ADDRESS" not in os.environ:  # in a cluster these ports are its own
        yield doctor.check_ports(port_base, PORTS)
    with ExitStack() as stack:
        try:
            stack.enter_context(LocalRay(config))
        except Exception as error:  # a node that does not come up in time raises a bare Exception in Ray
            said = str(error).strip().splitlines()
            yield Check(
                "Ray",
                said[-1] if said else type(error).__name__,
                "look at the newest folder in /tmp/ray/*/logs; on a busy machine try again",
            )
            return
        yield from examine_cluster(config, run_dir)


def examine_cluster(config: Config, run_dir: Path) -> Iterator[Check]:
    """What can be seen once Ray runs: every node from inside, what lies between them, room for the preset."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from actors.probe import Probe

    nodes = [node for node in ray.nodes() if node["Alive"]]
    names = [f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})" for node in nodes]
    probes = [
        ray.remote(Probe)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in nodes
    ]
    try:
        training, _ = checkpoint_bytes(config, config.tokenizer.vocab_size)
        need = training * (config.pretrain.keep_checkpoints + 1)  # one more is written before the oldest goes
        # On a cluster the object store is there already, and what it takes is no longer free.
        store = 0 if "RAY_ADDRESS" in os.environ else config.ray.object_store_mb * 2**20
        looks = ray.get([probe.look.remote(run_dir, need, store) for probe in probes], timeout=DEADLINE_S)
        for name, found in zip(names, looks, strict=True):
            for check in found:
                yield Check(f"{check.name} on {name}", check.said, check.todo)
        versions = ray.get([probe.versions.remote() for probe in probes], timeout=DEADLINE_S)
        yield doctor.same_versions(dict(zip(names, versions, strict=True)))
        yield _object_store()
        yield doctor.check_clocks({name: _skew(probe) for name, probe in zip(names, probes, strict=True)})
        yield _shared(run_dir, names, probes)
        yield doctor.check_bandwidth("gloo", _rates(names, probes))
    except ray.exceptions.GetTimeoutError:
        yield Check("nodes", f"no answer within {DEADLINE_S:.0f} s", "look at `ray status` and at the nodes' logs")
    finally:
        for probe in probes:
            ray.kill(probe)
    yield _room(config)


def _object_store() -> Check:
    """A large object goes into the store and comes back the same."""
    import ray

    sent = np.random.default_rng(0).integers(0, 256, OBJECT_BYTES, dtype=np.uint8)
    started = time.monotonic()
    same = bool((ray.get(ray.put(sent), timeout=DEADLINE_S) == sent).all())
    said = f"{OBJECT_BYTES // 2**20} MiB there and back in {time.monotonic() - started:.2f} s"
    return Check("object store", said, "" if same else "what came back differs: look at this machine's memory")


def _skew(probe: Any) -> tuple[float, float]:
    """The reading that is certain most."""
    import ray

    readings = []
    for _ in range(CLOCK_READINGS):
        before = time.time()
        remote = ray.get(probe.clock.remote(), timeout=DEADLINE_S)
        readings.append(doctor.skew_of(before, remote, time.time()))
    return min(readings, key=lambda reading: reading[1])


def _shared(run_dir: Path, names: list[str], probes: list[Any]) -> Check:
    """What the driver writes into the run folder, or where it will be, every node must read."""
    import ray

    where = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    token, path = uuid.uuid4().hex, where / f".doctor-{uuid.uuid4().hex}.tmp"
    try:
        write_text_atomic(path, token)
        seen = ray.get([probe.reads.remote(path, token) for probe in probes], timeout=DEADLINE_S)
    except OSError as error:
        return Check(f"shared {where}", error.strerror or str(error), "choose a folder that you may write to")
    finally:
        path.unlink(missing_ok=True)
    return doctor.check_seen_by_all(where, dict(zip(names, seen, strict=True)))


def _rates(names: list[str], probes: list[Any]) -> dict[str, float]:
    """Bytes a second between the first node and each other one, pair by pair."""
    import ray

    rates = {}
    for name, probe in itertools.islice(zip(names[1:], probes[1:], strict=True), MAX_PAIRS):
        meeting = ray.get(probes[0].open_store.remote(2), timeout=DEADLINE_S)
        both = [p.bandwidth.remote(rank, meeting, DEADLINE_S) for rank, p in enumerate((probes[0], probe))]
        rates[f"{names[0]} - {name}"] = min(ray.get(both, timeout=DEADLINE_S))
    return rates


def _room(config: Config) -> Check:
    found = available_resources()
    said = f"{found['cpus']:g} CPUs, {found['gpus']:g} GPUs, {found['memory_gib']:.0f} GiB for preset {config.preset}"
    try:
        check_fits(config, **found)
    except UserError as error:
        return Check("room", said, str(error))
    return Check("room", said)


def _parser() -> Parser:
    parser = Parser(prog="jobs/doctor.py", description="Is everything there that a run needs? One line a check.")
    parser.add_argument("--preset", help=f"one of {', '.join(PRESETS)} (default: that of the run folder, else nano)")
    parser.add_argument("--config", type=Path, help="YAML file of settings over the preset's")
    parser.add_argument("--run-dir", type=Path, help="where results are to go (default runs/<preset>)")
    parser.add_argument("--port-base", type=int, default=26500, help="of cluster/local.sh (default 26500)")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value")
    return parser


if __name__ == "__main__":
    sys.exit(main())
