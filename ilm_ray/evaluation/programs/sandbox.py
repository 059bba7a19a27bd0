"""Run code that a model has written: no network, its own folder, an empty environment, limits on every resource.

Three levels, the strictest that the system allows (`isolation`): `namespaces` (Linux; root or a user who may make user
namespaces): own file tree of system folders, read-only, and one temporary folder in memory, own processes, no network
device, another user; `other_user` (root without namespaces) and `limits`: limits, an empty environment and a temporary
folder alone, so files that others may read and the network are within reach. Every outcome names its level.
"""

import functools
import itertools
import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ilm_ray.evaluation.programs import sandbox_child
from ilm_ray.evaluation.programs.sandbox_child import LIMITS, NAMESPACES, OTHER_USER

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin"
# System folders that hold programs and libraries, not a user's files; the parts of /etc that toolchains are found by.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt/java", "/etc/alternatives")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
_ETC = {
    "passwd": "nobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
    "group": "nogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n",
}
# The child ends the program at its wall limit; past that and this, the child itself is stuck. Long, because namespaces
# can take the kernel seconds to make and to take down on a machine that has too much to do.
_BACKSTOP_S = 60.0
_CHUNK = 1 << 16
_numbers = itertools.count()


@dataclass(frozen=True)
class ProgramLimits:
    """Limits of a program or a compiler. cpu_s: of a process; wall_s: of a command; memory_bytes: of all its processes
    together, and of the data of each."""

    cpu_s: int = 10
    wall_s: float = 20.0
    memory_bytes: int = 2**30
    disk_bytes: int = 64 * 2**20
    files: int = 1024
    open_files: int = 128
    processes: int = 64
    output_bytes: int = 2**20  # stdout and stderr together


@dataclass(frozen=True)
class Outcome:
    """The end of a program.

    reason: None where it ended with exit code 0; else `exit`, `signal`, `cpu`, `wall`, `memory`, `output`, `compile`
    or `not_installed`; detail: the reason in words, after "the compiler:" where that failed. exit_code: negative for a
    signal, None where the sandbox ended the program.
    """

    reason: str | None
    detail: str
    stdout: str
    stderr: str
    exit_code: int | None
    cpu_s: float
    wall_s: float
    peak_bytes: int
    isolation: str

    @property
    def passed(self) -> bool:
        return self.reason is None


class SandboxError(RuntimeError):
    """The sandbox itself failed; the program has not run."""


@dataclass(frozen=True)
class Toolchain:
    """The file that a program is written to, and the commands run on it; the last one is the program."""

    file: str
    steps: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...] = ()  # beside the system's, where the toolchain lies
    more: tuple[tuple[str, str], ...] = ()  # name and text of files that lie beside the program


TOOLCHAINS = {
    "python": Toolchain("main.py", ((sys.executable, "-I", "main.py"),), (sys.prefix, sys.base_prefix)),
    "cpp": Toolchain("main.cpp", (("g++", "-std=c++17", "-O1", "-o", "main", "main.cpp"), ("/tmp/main",))),
    "java": Toolchain(
        "Main.java",
        (
            ("javac", "-J-XX:+UseSerialGC", "-J-Xmx512m", "Main.java"),
            ("java", "-XX:+UseSerialGC", "-Xmx512m", "-cp", ".", "Main"),
        ),
    ),
    "javascript": Toolchain("main.js", (("node", "main.js"),)),
    "go": Toolchain("main.go", (("go", "build", "-o", "main", "main.go"), ("/tmp/main",))),
}


def missing(language: str | Toolchain) -> str | None:
    """The reason why programs of a language cannot run here, None where they can."""
    if isinstance(language, str) and language not in TOOLCHAINS:
        return f"language '{language}' is unknown; known are {', '.join(TOOLCHAINS)}"
    toolchain = TOOLCHAINS[language] if isinstance(language, str) else language
    lacking = list(dict.fromkeys(step[0] for step in toolchain.steps if _command(step) is None))
    return f"{', '.join(lacking)} is not installed under {PATH}" if lacking else None


@functools.lru_cache(maxsize=1)
def isolation() -> str:
    """The strictest level that works here. Raises SandboxError where none does."""
    failures = []
    for level in (NAMESPACES, OTHER_USER if os.geteuid() == 0 else LIMITS):
        try:
            outcome = _run("", "", [ProgramLimits()], TOOLCHAINS["python"], level)
        except SandboxError as error:
            failures.append(f"{level}: {error}")
            continue
        if outcome.passed:
            return level
        failures.append(f"{level}: {outcome.detail}")
    raise SandboxError(f"no way to shut a program in works here ({'; '.join(failures)})")


def run_in_sandbox(
    program: str,
    stdin: str = "",
    limits: ProgramLimits | None = None,
    language: str | Toolchain = "python",
    compiling: ProgramLimits | None = None,
) -> Outcome:
    """Run a program (source text) and wait for its end. compiling: limits of the commands before the
    last one, the compilers; None: those of the program.

    A program that fails, or a language that is not installed, is an outcome. Raises SandboxError where the sandbox
    itself does not work. Safe to call from several threads.
    """
    reason = missing(language)
    if reason is not None:
        return Outcome("not_installed", reason, "", "", None, 0.0, 0.0, 0, "")
    toolchain = TOOLCHAINS[language] if isinstance(language, str) else language
    running = limits or ProgramLimits()
    of_steps = [*[compiling or running] * (len(toolchain.steps) - 1), running]
    return _run(program, stdin, of_steps, toolchain, isolation())


def _run(program: str, stdin: str, limits: Sequence[ProgramLimits], toolchain: Toolchain, level: str) -> Outcome:
    """limits: of each of the toolchain's steps."""
    started = time.monotonic()
    root = tempfile.mkdtemp(prefix="ilm-sandbox-")  # stays empty where the sandbox has a file tree of its own
    status, report_end = os.pipe()
    child = None
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", sandbox_child.__file__, str(report_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(report_end,),
            env={},
            cwd="/",
            start_new_session=True,
        )
        os.close(report_end)
        report_end = -1
        assert child.stdin is not None
        with child.stdin as pipe:
            pipe.write(json.dumps(_order(program, stdin, limits, toolchain, level, root)).encode())
        stdout, stderr, full = _read(child, limits, started)
        report = _report(status) if not full else {}
    finally:
        if child is not None:
            _end(child)
        os.close(status)
        if report_end >= 0:
            os.close(report_end)
        shutil.rmtree(root, ignore_errors=True)
    if "error" in report or not (report or full):
        raise SandboxError(report.get("error") or f"the sandbox's process ended without a report: {stderr[-500:]}")
    reason, detail = (
        ("output", f"more than {_most_output(limits):,} bytes of output") if full else _verdict(report, limits, stderr)
    )
    code = report.get("code") if reason in (None, "exit", "signal", "compile", "cpu") else None
    seconds = time.monotonic() - started
    return Outcome(
        reason, detail, stdout, stderr, code, report.get("cpu_s", 0.0), seconds, report.get("peak", 0), level
    )


def _order(
    program: str, stdin: str, limits: Sequence[ProgramLimits], toolchain: Toolchain, level: str, root: str
) -> dict[str, Any]:
    work = sandbox_child.WORK if level == NAMESPACES else root
    steps = [[_command(step), *step[1:]] for step in toolchain.steps]
    steps = [[str(word).replace("/tmp/main", f"{work}/main") for word in step] for step in steps]
    return {
        "level": level,
        "root": root,
        "number": (os.getpid() * 1000 + next(_numbers) % 1000) % 100_000_000,
        "files": {toolchain.file: program, **dict(toolchain.more)},
        "stdin": stdin,
        "steps": steps,
        "limits": [asdict(limit) | {"cpu_s": math.ceil(limit.cpu_s)} for limit in limits],
        "visible": _visible(toolchain),
        "etc": _ETC,
        "env": {"PATH": PATH, "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "GOCACHE": work},
    }


def _visible(toolchain: Toolchain) -> list[str]:
    """Paths that exist, none within another."""
    wanted = [*_SYSTEM, *(str(p) for p in Path("/etc").glob("java*")), *toolchain.folders]
    there = [path for path in wanted if Path(path).exists()]
    outer = [p for p in there if not any(p != q and p.startswith(f"{q.rstrip('/')}/") for q in there)]
    return [*dict.fromkeys(outer), *(path for path in (*_SYSTEM_FILES, *_DEVICES) if Path(path).exists())]


def _command(step: Sequence[str]) -> str | None:
    """Full path of a step's command. A path that an earlier step makes is taken to exist."""
    return step[0] if step[0].startswith("/") else shutil.which(step[0], path=PATH)


def _most_output(limits: Sequence[ProgramLimits]) -> int:
    return max(limit.output_bytes for limit in limits)


def _read(child: subprocess.Popen[bytes], limits: Sequence[ProgramLimits], started: float) -> tuple[str, str, bool]:
    """(stdout, stderr, whether they are too long), read until both end."""
    assert child.stdout is not None and child.stderr is not None
    texts = {child.stdout: bytearray(), child.stderr: bytearray()}
    left, seconds = _most_output(limits), sum(limit.wall_s for limit in limits)
    until = started + seconds + _BACKSTOP_S
    with selectors.DefaultSelector() as selector:
        for stream in texts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and left >= 0:
            ready = selector.select(max(0.0, until - time.monotonic()))
            if not ready:
                raise SandboxError(f"the sandbox's process has not ended its program within {seconds:g} s")
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                texts[key.fileobj] += data[: max(left, 0)]  # type: ignore[index]
                left -= len(data)
    out, err = (text.decode("utf-8", "replace") for text in texts.values())
    return out, err, left < 0


def _report(status: int) -> dict[str, Any]:
    """The child's report of the end, {} where it was killed before it could write."""
    os.set_blocking(status, False)
    try:
        data = os.read(status, _CHUNK)
    except BlockingIOError:
        return {}
    return dict(json.loads(data)) if data else {}


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child. Within namespaces its processes end with it; elsewhere it ends them on SIGTERM."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_BACKSTOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def _verdict(report: dict[str, Any], limits: Sequence[ProgramLimits], stderr: str) -> tuple[str | None, str]:
    """Reason and its words from the child's report."""
    code, lines, allowed = report["code"], stderr.strip().splitlines(), limits[report["step"]]
    compiling = report["step"] < len(limits) - 1
    whose = "the compiler: " if compiling else ""
    if report["reason"] == "memory":
        return "memory", f"{whose}more than {allowed.memory_bytes / 2**20:,.0f} MiB resident"
    if report["reason"] == "wall":
        return "wall", f"{whose}not done after {allowed.wall_s:g} s"
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and report["step_cpu_s"] >= allowed.cpu_s):
        return "cpu", f"{whose}more than {allowed.cpu_s:g} s of processor time"
    last = lines[-1] if lines else ""
    if code and compiling:
        return "compile", next((line for line in lines if "error" in line.lower()), last)
    if code < 0:
        return "signal", f"ended by {signal.Signals(-code).name}"
    return ("exit", f"exit code {code}: {last}") if code else (None, "")
