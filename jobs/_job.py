"""What every job shares: command line, Ray, run folder, exit code, the last JSON line.

    python jobs/<job>.py [--preset nano|1_8b|7b|20b] [--config FILE] [--run-dir DIR] [key.sub=value ...]

A command without `--preset` takes up what the run folder remembers (`<run-dir>/config.yaml`); one with it begins from
the preset.

Exit code 0: done. 2: bad input or configuration, one line says what, where and what to do. 143: stopped by Ctrl-C or
SIGTERM (`ray job stop`), the same command goes on from there. 1: anything else, and `<run-dir>/error.txt` holds the
evidence.
"""

import argparse
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config import Config, save_config
from ilm_ray.config.fit import check_fits, fewer_line, fitted
from ilm_ray.config.load import PRESETS
from ilm_ray.config.named_data import check_named
from ilm_ray.config.run_folder import NAME, Chosen, choose_settings
from ilm_ray.report.report import write_report
from ilm_ray.report.tensorboard import write_tensorboard
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import Stage, check_run_dir, run_stage
from ilm_ray.run.stopping import EXIT_CODE, SIGNALS, Stopped, stop_at_once

CONNECT_S = 10.0
ROOM_BYTES = 2**20  # a disk with less is full


def run_job(job: str, stages: Sequence[Stage], argv: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line, run `stages` in order, print the JSON line, exit."""
    run_dir: Path | None = None
    try:
        config, run_dir, said = _parse(job, argv)
        if said is not None:
            print(f"{job}: {said}", file=sys.stderr)
        check_named(config, [stage.name for stage in stages])
        for stage in stages:  # outside inputs are looked at before anything is written
            stage.sources(config)
        check_run_dir(stages, run_dir)
        done = {}
        with LocalRay(config):
            from actors.warden import Wardens  # not before Ray's environment is set
            from ilm_ray.run.metrics import watched_disk

            fit = config
            if any(stage.trains for stage in stages):
                found = available_resources()
                check_fits(config, **found, stages=[stage.name for stage in stages])
                fit = fitted(config, found["gpus"])
            _open_run_dir(run_dir, config)
            journal = Journal(run_dir / "journal.jsonl")
            journal.event("start", job=job, preset=config.preset, **({"settings": said} if said else {}))
            if (fewer := fewer_line(config, fit)) is not None:
                print(f"{job}: {fewer}", file=sys.stderr)
                journal.event("note", why=fewer)
            for number in SIGNALS:  # after Ray has set its own
                signal.signal(number, stop_at_once)
            try:
                with Wardens(config.ray.hang_s, lambda line: journal.event("note", why=line)):
                    for stage in stages:
                        with watched_disk(run_dir, stage.name):
                            done[stage.name] = run_stage(stage, fit, run_dir, journal)
            finally:  # a run that failed half-way is when one wants to look
                _write_reports(run_dir)
        summaries = {name: m.metrics["summary"] for name, m in done.items()}
        figures = summaries if len(stages) > 1 else summaries[stages[0].name]
        if len(stages) > 1:
            print_stage_table({name: (m.seconds, m.peak_memory_mb) for name, m in done.items()})
        report = str(run_dir / "report.html")
        _finish({"job": job, "status": "done", "run_dir": str(run_dir), "report": report, **figures}, 0)
    except UserError as error:
        said = str(getattr(error, "cause", error))  # one that was raised in a Ray task comes with the task's traceback
        print(f"{job}: {said}", file=sys.stderr)
        _finish({"job": job, "status": "refused", "run_dir": _text(run_dir), "error": said}, 2)
    except Stopped as stop:
        _end_stopped(job, stop, run_dir)
    except Exception as error:
        if (behind := _stop_behind(error)) is not None:
            _end_stopped(job, behind, run_dir)
        said = _one_line(error) + _no_room(run_dir)
        evidence = _keep_evidence(run_dir)
        print(f"{job}: {said}; evidence: {evidence}", file=sys.stderr)
        summary = {"job": job, "status": "failed", "run_dir": _text(run_dir), "error": said, "evidence": evidence}
        _finish(summary, 1)


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
    import ray

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
    ray.init(logging_level="warning", log_to_driver=False, **options)


def start_local_ray(**options: Any) -> None:
    """A Ray of this process, by `ray.init` with `options`, that no other machine reaches: its metrics ask for no token,
    and nothing does where RAY_AUTH_MODE=disabled."""
    import ray
    from ray._private import ray_constants

    # Ray listens at its node's address, which is loopback only where it rules out clusters of several machines. Its
    # own processes read the variable; this one did so when Ray was imported.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(address="local", logging_level="warning", log_to_driver=False, **options)


def available_resources() -> dict[str, float]:
    """CPUs, GPUs and memory (GiB) of the cluster this job has joined."""
    import ray

    total = ray.cluster_resources()
    return {
        "cpus": total.get("CPU", 0.0),
        "gpus": total.get("GPU", 0.0),
        "memory_gib": sum(_node_memory_gib(node) for node in ray.nodes() if node["Alive"]),
    }


def print_stage_table(rows: dict[str, tuple[float, float]]) -> None:
    """Stage, wall seconds, peak memory: one line each on stderr."""
    print(f"{'stage':<16}{'wall seconds':>14}{'peak MiB':>12}", file=sys.stderr)
    for name, (seconds, peak) in rows.items():
        print(f"{name:<16}{seconds:>14.1f}{peak:>12.0f}", file=sys.stderr)
    total, highest = sum(s for s, _ in rows.values()), max(p for _, p in rows.values())
    print(f"{'all':<16}{total:>14.1f}{highest:>12.0f}", file=sys.stderr)


def _parse(job: str, argv: Sequence[str] | None) -> Chosen:
    parser = _Parser(
        prog=f"jobs/{job}.py", description=f"ilm_ray job '{job}'; its settings are those of ilm_ray/config."
    )
    parser.add_argument("--preset", help=f"one of {', '.join(PRESETS)} (default: that of the run folder, else nano)")
    parser.add_argument("--config", type=Path, help="YAML file with settings")
    parser.add_argument("--run-dir", type=Path, help="where results go (default runs/<preset>)")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value")
    arguments = parser.parse_intermixed_args(argv)
    return choose_settings(arguments.preset, arguments.config, arguments.settings, arguments.run_dir)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; usage: {self.prog} [--preset P] [--config FILE] [--run-dir DIR] [key.sub=value]")


def _open_run_dir(run_dir: Path, config: Config) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / NAME)
        (run_dir / "error.txt").unlink(missing_ok=True)  # that of an earlier attempt
    except OSError as error:
        raise UserError(
            f"cannot write to --run-dir {run_dir}: {error.strerror or error}; choose a folder you may write to"
        ) from None


def _write_reports(run_dir: Path) -> None:
    """Whatever is wrong with a picture of the run, the run's own outcome is what the job reports."""
    try:
        write_report(run_dir)
        write_tensorboard(run_dir)
    except Exception as error:  # the disk may be full, which the journal would have to be told on
        print(f"the report was not written: {_one_line(error)}", file=sys.stderr)


def _keep_evidence(run_dir: Path | None) -> str:
    text = traceback.format_exc()
    if run_dir is not None and run_dir.is_dir():
        try:
            write_text_atomic(run_dir / "error.txt", text)
            return str(run_dir / "error.txt")
        except OSError:
            pass  # stderr has room
    print(text, file=sys.stderr)
    return "the traceback above"


def _no_room(run_dir: Path | None) -> str:
    """What to do where a full disk is the likely cause: what failed for it says so in many ways, or not at all."""
    if run_dir is None or not run_dir.is_dir() or shutil.disk_usage(run_dir).free >= ROOM_BYTES:
        return ""
    return f" (the disk of {run_dir} is full: make room and give the same command again)"


def _stop_behind(error: BaseException | None) -> Stopped | None:
    """What an error came of, where that is a stop: out of Ray's own calls it comes as a SystemError."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error


def _end_stopped(job: str, stop: Stopped, run_dir: Path | None) -> NoReturn:
    print(f"{job}: {stop}", file=sys.stderr)
    _finish({"job": job, "status": "stopped", "run_dir": _text(run_dir)}, EXIT_CODE)


def _finish(summary: dict[str, Any], code: int) -> NoReturn:
    sys.stderr.flush()
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    sys.exit(code)


def _one_line(error: Exception) -> str:
    """Type and message; of an error in a Ray task what was raised there, not what Ray says of it behind."""
    if raised := re.search(r"^[\w.]+(?:Error|Exception): .+$", str(error), re.MULTILINE):
        return raised[0][:300]
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"[:300]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _quiet_ray_data() -> None:
    import ray.data  # it sets up its logger as it is imported: before that a level would not last

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _node_memory_gib(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("memory", 0.0)) / 2**30
