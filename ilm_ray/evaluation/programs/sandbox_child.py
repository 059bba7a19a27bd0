"""The sandbox's own process (see `sandbox.py`): shuts itself in, runs the program, reports how it ended.

    python -I -S sandbox_child.py STATUS_FD < order.json

Standard library only: it is started once a program. It must not be imported for its side; it is run as a script. A user
namespace (Linux) lets a plain user do this; root takes another user id first, because the kernel holds user 0 to no
limit on processes.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

NAMESPACES, OTHER_USER, LIMITS = "namespaces", "other_user", "limits"
INSIDE_ID = 65534  # nobody, within the sandbox
FIRST_OTHER_ID = 1_900_000_000  # plus the process's number: an id that no one has and no two sandboxes share
WORK = "/tmp/work"
POLL_S = 0.02

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (1 << b for b in (17, 26, 27, 28, 29, 30))
_APART = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_MAY_BE_LOCKED = {os.ST_NOEXEC: 8, os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, os.ST_RELATIME: 1 << 21}
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # system call without a function in libc
_SET_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
_LAST_CAPABILITY = 63
_libc = ctypes.CDLL(None, use_errno=True)

Order = dict[str, Any]


def main() -> None:
    """Run the order on stdin within its limits; the outcome goes to the file descriptor that is the argument."""
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    order = json.load(sys.stdin)
    try:
        if order["level"] == NAMESPACES:
            _run_apart(order, status)
        else:
            _tell(status, _run_limited(order))
    except OSError as error:
        _tell(status, {"error": f"{type(error).__name__}: {error}"})


def _run_apart(order: Order, status: int) -> None:
    """Own namespaces, own root folder. The report is written by the first process inside."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    root = os.geteuid() == 0
    if root:
        _call("unshare", _APART)
    else:
        uid, gid = os.geteuid(), os.getegid()
        _call("unshare", _APART | _NEWUSER)
        _map_ids(uid, gid)
    first = os.fork()
    if first == 0:
        try:
            _prctl(_SET_PDEATHSIG, signal.SIGKILL)
            _own_root(order)
            if root:
                number = FIRST_OTHER_ID + order["number"]
                _become(number)
                _call("unshare", _NEWUSER)  # processes are counted by user and user namespace
                _map_ids(number, number)
            _prctl(_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
            with contextlib.suppress(OSError):  # no nested namespace, so no file system of its own; needs /proc
                Path("/proc/sys/user/max_user_namespaces").write_text("0")
            report = _watch(order, WORK, _others_here)
        except OSError as error:
            report = {"error": f"{type(error).__name__}: {error}"}
        _tell(status, report)
        os._exit(0)  # the kernel ends all that is left of the program
    os.waitpid(first, 0)


def _run_limited(order: Order) -> dict[str, Any]:
    """Isolation without namespaces: another user id where that is possible, limits, and all descendants ended."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_SET_CHILD_SUBREAPER, 1)
    if order["level"] == OTHER_USER:
        number = FIRST_OTHER_ID + order["number"]
        os.chown(order["root"], number, number)
        _become(number)
        _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    me = os.getpid()
    try:
        return _watch(order, order["root"], lambda: _descendants(me))
    finally:
        while left := _descendants(me):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.001)


def _watch(order: Order, folder: str, members: Callable[[], list[int]]) -> dict[str, Any]:
    """Run the steps one after the other until one fails; the report."""
    for name, content in order["files"].items():
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        Path(folder, name).write_text(content, encoding="utf-8")
    given = os.open(folder, os.O_TMPFILE | os.O_RDWR)
    with open(given, "w", encoding="utf-8", closefd=False) as file:
        file.write(order["stdin"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    report: dict[str, Any] = {"step": 0, "reason": None, "code": 0, "peak": 0}
    before = 0.0  # processor seconds of earlier steps
    for report["step"], command in enumerate(order["steps"]):
        limits = order["limits"][report["step"]]
        until, before = time.monotonic() + limits["wall_s"], _cpu_s()
        os.lseek(given, 0, os.SEEK_SET)
        program = os.fork()
        if program == 0:
            _become_program(command, limits, order["env"], folder, given)
        ended = None
        while ended is None and report["reason"] is None:
            signal.sigtimedwait([signal.SIGCHLD], POLL_S)
            ended = _reap(program)
            memory = sum(map(_resident, members()))
            report["peak"] = max(report["peak"], memory)
            if memory > limits["memory_bytes"]:
                report["reason"] = "memory"
            elif time.monotonic() > until and ended is None:
                report["reason"] = "wall"
        if ended is None:
            break
        report["code"] = os.waitstatus_to_exitcode(ended)
        if report["code"] or report["reason"]:
            break
    return report | {"cpu_s": _cpu_s(), "step_cpu_s": _cpu_s() - before}


def _cpu_s() -> float:
    """Processor seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _become_program(
    command: list[str], limits: dict[str, Any], env: dict[str, str], folder: str, given: int
) -> NoReturn:
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(given, 0)
        for fd in range(3, 256):
            with contextlib.suppress(OSError):
                os.close(fd)
        cpu = limits["cpu_s"]
        for kind, soft, hard in (
            (resource.RLIMIT_CPU, cpu, cpu + 1),
            (resource.RLIMIT_DATA, limits["memory_bytes"], limits["memory_bytes"]),
            (resource.RLIMIT_FSIZE, limits["disk_bytes"], limits["disk_bytes"]),
            (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
            (resource.RLIMIT_NPROC, limits["processes"], limits["processes"]),
            (resource.RLIMIT_CORE, 0, 0),
        ):
            most = resource.getrlimit(kind)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            resource.setrlimit(kind, (soft, hard))
        for capability in range(_LAST_CAPABILITY + 1):
            _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)  # refused where there is none to drop
        _prctl(_SET_NO_NEW_PRIVS, 1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execve(command[0], command, env)
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error}\n".encode())
    os._exit(127)


def _own_root(order: Order) -> None:
    """Build a root folder of the files that the program may read, move there, let go of the old one."""
    new = order["root"]
    disk, files = (max(limits[name] for limits in order["limits"]) for name in ("disk_bytes", "files"))
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", new, "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")
    # First of all, for the interpreter may itself lie somewhere below /tmp.
    Path(f"{new}/tmp").mkdir()
    size = f"mode=1777,size={disk},nr_inodes={files}"
    _mount("tmpfs", f"{new}/tmp", "tmpfs", _NOSUID | _NODEV, size)
    Path(new + WORK).mkdir()
    Path(new + WORK).chmod(0o1777)
    for path in order["visible"]:
        target = Path(new + path)
        if Path(path).is_symlink() and path.count("/") == 1:  # /bin -> usr/bin
            target.symlink_to(Path(path).readlink())
            continue
        if Path(path).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        _mount(os.path.realpath(path), str(target), None, _BIND | _REC)
        if not path.startswith("/dev/"):
            _mount("none", str(target), None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _locked(target))
    for name, text in order["etc"].items():
        Path(new, "etc").mkdir(exist_ok=True)
        Path(new, "etc", name).write_text(text)
    for name in ("proc", ".old"):
        Path(new, name).mkdir(exist_ok=True)
    with contextlib.suppress(OSError):  # refused to a plain user in a container that masks parts of its own
        _mount("proc", f"{new}/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    number = _PIVOT_ROOT[os.uname().machine]
    _check("pivot_root", _libc.syscall(number, os.fsencode(new), os.fsencode(f"{new}/.old")))
    os.chdir("/")
    _call("umount2", b"/.old", _DETACH)
    Path("/.old").rmdir()
    _mount("none", "/", None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)


def _locked(path: Path) -> int:
    """Mount flags that a user namespace may not take away."""
    have = os.statvfs(path).f_flag
    return sum(flag for seen, flag in _MAY_BE_LOCKED.items() if have & seen)


def _become(number: int) -> None:
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    _prctl(_SET_DUMPABLE, 1)  # else /proc/self belongs to root, and the maps cannot be written


def _map_ids(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_ID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_ID} {gid} 1")


def _reap(program: int) -> int | None:
    """Collect all children that have ended; the program's status if it is among them."""
    ended = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == program:
                ended = status
    return ended


def _others_here() -> list[int]:
    with contextlib.suppress(OSError):
        return [pid for pid in _numbered() if pid != os.getpid()]
    return []  # no /proc: each process has its own limit, their sum is not watched


def _descendants(ancestor: int) -> list[int]:
    parents = dict[int, int]()
    for pid in _numbered():
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" or int(fields[1]) == ancestor:
                parents[pid] = int(fields[1])
    family = [ancestor]
    for parent in family:
        family += [pid for pid, its in parents.items() if its == parent]
    return family[1:]


def _numbered() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _check(f"mount {target}", result)


def _prctl(*arguments: int) -> None:
    _call("prctl", *(ctypes.c_ulong(a) for a in (*arguments, *[0] * (5 - len(arguments)))))


def _call(name: str, *arguments: Any) -> None:
    _check(name, getattr(_libc, name)(*arguments))


def _check(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _tell(status: int, report: dict[str, Any]) -> None:
    os.write(status, json.dumps(report).encode())


if __name__ == "__main__":
    main()
