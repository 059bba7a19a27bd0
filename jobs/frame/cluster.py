"""The Ray of a job: the cluster that it was submitted to, or one of its own."""

import logging
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.run.gpus import Gpu, listed_gpus, weakest
from ilm_ray.run.stopping import handlers_kept
from ilm_ray.training.plan.fits import Machine

CONNECT_S = 10.0
ANSWER_S = 60.0  # of a node that imports torch, or names its GPUs


class LocalRay:
    """Joins the cluster that this job was submitted to (RAY_ADDRESS), or starts a local Ray and stops it again."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __enter__(self) -> None:
        # One core a process: the ranks on this machine share its cores, and oversubscription costs more than it gives.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
        # Fork warnings, usage pings and log de-duplication are noise in a job's log.
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        if "RAY_ADDRESS" in os.environ:
            join_cluster(runtime_env={"env_vars": env})
        else:
            env["GLOO_SOCKET_IFNAME"] = "lo"
            store_mb = self.config.ray.object_store_mb
            start_local_ray(
                num_cpus=self.config.ray.num_cpus,
                object_store_memory=None if store_mb is None else store_mb * 2**20,
                include_dashboard=self.config.ray.dashboard,
                runtime_env={"env_vars": env},
            )
        _quiet_ray_data()

    def __exit__(self, *exc: object) -> None:
        import ray

        ray.shutdown()


def join_cluster(**options: Any) -> None:
    """Join the cluster at RAY_ADDRESS, by `ray.init` with `options`. Raises UserError if nothing answers there, which
    Ray would find out after a quarter of an hour."""
    address = os.environ["RAY_ADDRESS"]
    host, _, port = address.rpartition(":")
    if port.isdigit() and "://" not in host:  # not "auto", or another form of Ray's
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise UserError(
                f"no Ray answers at RAY_ADDRESS={address} ({error.strerror or error}); start that cluster (again), "
                "or unset RAY_ADDRESS to have a Ray of this job's own"
            ) from None
    _init(**options)


def start_local_ray(**options: Any) -> None:
    """A Ray of this process, by `ray.init` with `options`, that no other machine reaches: its metrics ask for no token,
    and nothing does where RAY_AUTH_MODE=disabled."""
    from ray._private import ray_constants

    # Ray listens at its node's address, which is loopback only where it rules out clusters of several machines. Its
    # own processes read the variable; this one did so when Ray was imported.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    token_without_home()
    _init(address="local", **options)


def token_without_home() -> None:
    """Ray keeps its token in the home folder; where nothing can be written there, this process's Ray gets one of its
    own, in its environment."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled" or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    token = Path.home() / ".ray" / "auth_token"
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        writable = token.exists() or os.access(token.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _init(**options: Any) -> None:
    """`ray.init`, which sets handlers of signals that abort, with the handlers of before."""
    import ray

    with handlers_kept():
        ray.init(logging_level="warning", log_to_driver=False, **options)


def machine() -> Machine:
    """Resources of the cluster this job has joined, and its weakest GPU."""
    import ray

    total, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
    return Machine(
        cpus=total.get("CPU", 0.0),
        gpus=total.get("GPU", 0.0),
        memory_gib=sum(_node_memory_gib(node) for node in nodes),
        gpu=weakest(_gpus_of([node["NodeID"] for node in nodes if node["Resources"].get("GPU", 0) > 0])),
    )


def _gpus_of(nodes: list[str]) -> list[Gpu]:
    """The GPUs of these nodes; of those that do not answer in time, none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(listed_gpus).options(num_cpus=0)
    looks = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    answered = ray.wait(looks, num_returns=len(looks), timeout=ANSWER_S)[0] if looks else []
    return [gpu for listing in ray.get(answered) for gpu in listing.gpus]


def check_gpus_work() -> None:
    """Raise UserError where Ray counts GPUs of a node that torch there cannot use.

    Ray asks NVIDIA's driver library, which lists them even where CUDA cannot use them. A node that does not answer
    within a minute is left to the stages and their deadlines.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ilm_ray.run.gpus import why_unusable

    node_of = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("GPU"):
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, max_calls=1)(why_unusable).options(scheduling_strategy=place)
            node_of[task.remote()] = node["NodeManagerAddress"]
    done, _ = ray.wait(list(node_of), num_returns=len(node_of), timeout=ANSWER_S) if node_of else ([], [])
    for reference in done:
        if why := ray.get(reference):
            raise UserError(f"Ray counts GPUs on {node_of[reference]} that torch cannot use: {why}")


def gpus_of_node(node: str) -> int:
    """GPUs of a node of the cluster this job has joined, by its id."""
    import ray

    (resources,) = (known["Resources"] for known in ray.nodes() if known["NodeID"] == node)
    return int(resources.get("GPU", 0))


def _quiet_ray_data() -> None:
    import ray.data  # it sets up its logger as it is imported: before that a level would not last

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _node_memory_gib(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("memory", 0.0)) / 2**30
