"""The command line of every job, and how a job ends: exit code, one clear line on bad input, one JSON line.

    python jobs/<job>.py [verb] [--preset nano|mini|1_8b|7b|20b] [--config FILE] [--run-dir DIR] [key.sub=value ...]

A job with verbs has one first; `--help` lists verbs, options and the settings that the job reads. Exit code 0: done. 2:
bad input or settings: one line names the problem, its place and a remedy. 143: stopped by Ctrl-C or SIGTERM (`ray job
stop`), the same command goes on from there. 1: anything else, with the evidence.
"""

import argparse
import json
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config import Config, load_config
from ilm_ray.config.load import PRESETS
from ilm_ray.config.run_folder import DEFAULT_PRESET, choose_settings
from ilm_ray.run.stopping import EXIT_CODE, Stopped, stopped_by_signals

ROOM_BYTES = 2**20  # a disk with less is full


class Parser(argparse.ArgumentParser):
    """Refuses a wrong command line as bad input, in one line.

    reads: settings and sections of the configuration that the job reads; then it takes `--preset`, `--config`,
    `--run-dir` and settings, and `--help` lists them with the preset's values.
    """

    def __init__(self, *, reads: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.reads = reads
        self.add_argument("-h", "--help", nargs=0, action=_Help, help="show this and end")
        if reads:
            presets = ", ".join(PRESETS)
            self.add_argument("--preset", help=f"one of {presets} (default: that of the run folder, else nano)")
            self.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings")
            self.add_argument("--run-dir", type=Path, metavar="DIR", help="run folder (default runs/<preset>)")
            self.add_argument("settings", nargs="*", metavar="key.sub=value", help="settings, as listed below")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """As `parse_args`; settings may stand anywhere among the options."""
        return self.parse_intermixed_args(argv) if self.reads else self.parse_args(argv)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> NoReturn:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends it without a traceback
        print(parser.format_help())
        if isinstance(parser, Parser) and parser.reads:
            from ilm_ray.config.help import settings_help  # pydantic-settings takes a while to import

            preset = namespace.preset or DEFAULT_PRESET
            print(f"settings, with the values of preset {preset}:\n")
            print(settings_help(load_config(preset), parser.reads))
        parser.exit()


def settings_of(arguments: argparse.Namespace) -> Config:
    """Settings of a job that writes no run folder: those of one are taken up where --run-dir names it."""
    preset, file, words = arguments.preset, arguments.config, arguments.settings
    if arguments.run_dir is None:
        return load_config(preset or DEFAULT_PRESET, file, words)
    return choose_settings(preset, file, words, arguments.run_dir).config


def run_verb(job: str, parser: Parser, argv: Sequence[str] | None) -> int:
    """Run the verb that the command line names: its `work(arguments)` gives the figures of the JSON line."""

    def work(summary: dict[str, Any]) -> None:
        arguments = parser.parse(argv)
        summary["verb"] = arguments.verb
        summary |= arguments.work(arguments)

    return run_command(job, work)


def run_command(job: str, work: Callable[[dict[str, Any]], None], evidence: bool = False) -> int:
    """`work(summary)` adds its figures as it gets them; prints the JSON line, and returns the exit code.

    evidence: a traceback goes to `error.txt` in the folder that `summary["run_dir"]` names, else to stderr.
    """
    summary: dict[str, Any] = {}
    try:
        with stopped_by_signals():
            work(summary)
        status, code = "done", 0
    except UserError as error:
        line = str(getattr(error, "cause", error))  # one that was raised in Ray comes with the traceback of its task
        print(f"{job}: {line}", file=sys.stderr)
        summary["error"], status, code = line, "refused", 2
    except (Stopped, Exception) as error:
        if (stop := stop_behind(error)) is not None:
            print(f"{job}: {stop}", file=sys.stderr)
            status, code = "stopped", EXIT_CODE
        else:
            run_dir = Path(summary["run_dir"]) if evidence and summary.get("run_dir") else None
            line = one_line(error) + _no_room(run_dir)
            summary |= {"error": line, "evidence": _keep_evidence(run_dir)}
            print(f"{job}: {line}; evidence: {summary['evidence']}", file=sys.stderr)
            status, code = "failed", 1
    sys.stderr.flush()
    print(json.dumps({"job": job, "status": status, **summary}, ensure_ascii=False), flush=True)
    return code


def one_line(error: BaseException) -> str:
    """Type and message; of an error in a Ray task the message that was raised there, without Ray's own behind it."""
    if raised := re.search(r"^[\w.]+(?:Error|Exception): .+$", str(error), re.MULTILINE):
        return raised[0][:300]
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"[:300]


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
    """The remedy where a full disk is the likely cause of an error, which seldom says so; else ""."""
    if run_dir is None or not run_dir.is_dir() or shutil.disk_usage(run_dir).free >= ROOM_BYTES:
        return ""
    return f" (the disk of {run_dir} is full: make room and give the same command again)"


def stop_behind(error: BaseException | None) -> Stopped | None:
    """The stop that an error came of, if any: out of Ray's own calls it comes as a SystemError."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error
