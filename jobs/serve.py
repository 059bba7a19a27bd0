"""Serve a model: OpenAI-compatible endpoint, chat page at /, health, Prometheus metrics; vLLM under a Ray actor.

    python jobs/serve.py serve.model=RUN/STAGE [serve.port=8000] [serve.key=value ...]

Routes: /v1/chat/completions, /v1/completions (with echo, logprobs and max_tokens=0 it scores a text), /v1/models,
/health, /metrics. Only this machine reaches it unless `serve.host` says otherwise; it asks for no key, so another host
should be a network that you trust. Runs until SIGINT or SIGTERM, lets running answers end, and prints one JSON line.
Exit codes: 0 stopped, 2 bad input, 1 anything else.
"""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config.serving import ServeConfig
from jobs.frame.cluster import gpus_of_node, join_cluster, start_local_ray
from jobs.frame.command import Parser, run_command, settings_of

CHECK_S = 5.0
STOP_DEADLINE_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        from ilm_ray.serving.folder import is_exported

        about = "An OpenAI-compatible endpoint and a chat page for one model, until Ctrl-C or SIGTERM."
        config = settings_of(Parser(prog="jobs/serve.py", description=about, reads=("serve",)).parse(argv)).serve
        if config.model is None:
            raise UserError("serve.model is not set; give a stage of a run or an exported folder: serve.model=DIR")
        is_exported(Path(config.model))  # refuses what is no model, before Ray starts
        with tempfile.TemporaryDirectory(prefix="ilm-serve-") as scratch:
            _serve(config, Path(config.model), Path(scratch), summary)

    return run_command("serve", work)


def _serve(config: ServeConfig, model: Path, scratch: Path, summary: dict[str, Any]) -> None:
    import ray

    from actors.ppo.engines import choose_backend
    from actors.server import Server
    from ilm_ray.serving.command import devices_of, server_settings
    from ilm_ray.serving.folder import servable

    backend, name = choose_backend(config.backend, "serve.backend"), config.name or model.absolute().name
    if "RAY_ADDRESS" in os.environ:
        join_cluster()
    else:
        start_local_ray(include_dashboard=False)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray has started: it sets handlers that abort
        signal.signal(number, lambda *_: stopped.set())
    try:
        # A cluster's other nodes do not have the exported folder: the actor stays on this one.
        node = ray.get_runtime_context().get_node_id()
        devices = devices_of(config, gpus_of_node(node))
        folder = servable(model, scratch, devices.dtype)
        settings = server_settings(config, folder, name, backend, devices)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, False)
        placed = ray.remote(Server).options(num_cpus=1, num_gpus=devices.gpus, scheduling_strategy=here)
        server = placed.remote(settings)
        try:
            url = ray.get(server.start.remote(config.deadline_s), timeout=config.deadline_s + 60)
            summary |= {"url": url, "model": name}
            where = f"on {devices.gpus} GPU(s)" if devices.gpus else "on a CPU"
            print(
                f"serving {name} at {url} (chat page), {url}/v1 (OpenAI-compatible), {settings.context} tokens in "
                f"{devices.dtype} {where}; Ctrl-C stops it",
                flush=True,
            )
            while not stopped.wait(CHECK_S):
                ray.get(server.check.remote(), timeout=STOP_DEADLINE_S)
        finally:
            ray.get(server.stop.remote(), timeout=STOP_DEADLINE_S)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
