"""Serve a model by vLLM under a Ray actor: OpenAI-compatible endpoint, chat page at /, health, metrics.

    python jobs/serve.py serve.model=RUN/STAGE [serve.port=8000] [serve.key=value ...]

Routes: /v1/chat/completions, /v1/completions (with echo, logprobs and max_tokens=0 it scores a text), /v1/models,
/health, /metrics. Only this machine reaches it unless `serve.host` says otherwise; it asks for no key, so another host
should be a network that you trust. Runs until SIGINT or SIGTERM, lets running answers end for up to 20 s, and prints
one JSON line; while the model loads either signal ends it at once. Exit codes: 0 stopped, 2 bad input, 1 anything else.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config.serving import ServeConfig
from ilm_ray.run.stopping import SIGNALS, Stopped
from jobs.frame.cluster import gpus_of_node, join_cluster, start_local_ray
from jobs.frame.command import Parser, run_command, settings_of, stop_behind

CHECK_S = 5.0
START_CHECK_S = 0.5
STOP_DEADLINE_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        from ilm_ray.serving.command import require_vllm
        from ilm_ray.serving.folder import is_exported

        about = "An OpenAI-compatible endpoint and a chat page for one model, until Ctrl-C or SIGTERM."
        config = settings_of(Parser(prog="jobs/serve.py", description=about, reads=("serve",)).parse(argv)).serve
        if config.model is None:
            raise UserError("serve.model is not set; give a stage of a run or an exported folder: serve.model=DIR")
        is_exported(Path(config.model))  # refuses what is no model, before Ray starts
        require_vllm()
        with tempfile.TemporaryDirectory(prefix="ilm-serve-") as scratch:
            _serve(config, Path(config.model), Path(scratch), summary)

    def until_stopped(summary: dict[str, Any]) -> None:
        try:
            work(summary)
        except (Stopped, Exception) as error:
            if stop_behind(error) is None:
                raise

    return run_command("serve", until_stopped)


def _serve(config: ServeConfig, model: Path, scratch: Path, summary: dict[str, Any]) -> None:
    import ray

    from actors.server import Server
    from ilm_ray.serving.command import devices_of, server_settings
    from ilm_ray.serving.folder import servable

    name = config.name or model.absolute().name
    if "RAY_ADDRESS" in os.environ:
        join_cluster()
    else:
        start_local_ray(include_dashboard=False)
    try:
        # A cluster's other nodes do not have the exported folder: the actor stays on this one.
        node = ray.get_runtime_context().get_node_id()
        devices = devices_of(config, gpus_of_node(node))
        folder = servable(model, scratch, devices.dtype)
        settings = server_settings(config, folder, name, devices)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, False)
        placed = ray.remote(Server).options(num_cpus=1, num_gpus=devices.gpus, scheduling_strategy=here)
        stopped = threading.Event()
        for number in SIGNALS:  # from here on somebody looks
            signal.signal(number, lambda *_: stopped.set())
        server = placed.remote(settings)
        try:
            url = _url_of(server, config.deadline_s, stopped)
            if url is None:
                return
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


def _url_of(server: Any, deadline_s: float, stopped: threading.Event) -> str | None:
    """The base URL of a server once it answers; None where the end was asked for before."""
    import ray

    ray.get(server.begin.remote(), timeout=STOP_DEADLINE_S)
    until = time.monotonic() + deadline_s
    while not stopped.wait(START_CHECK_S):
        url: str | None = ray.get(server.ready.remote(), timeout=STOP_DEADLINE_S)
        if url is not None:
            return url
        if time.monotonic() > until:
            raise ray.get(server.late.remote(deadline_s), timeout=STOP_DEADLINE_S)
    return None


if __name__ == "__main__":
    sys.exit(main())
