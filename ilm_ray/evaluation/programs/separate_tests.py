"""Runs in the sandbox: a program in a child process, then its tests, which the parent keeps till then.

    python -I main.py < {"tests": source, "word": ...}

The child runs `solution.py` as `__main__`, with nothing on standard input, and asks for the tests when it has come to
its end. The parent prints `word` when the child has run them all and ended with code 0: neither the program's file nor
standard input, nor anything in the child, has the word. Standard library only.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import types
from pathlib import Path

_SET_DUMPABLE = 4
_READY, _DONE = b"r", b"d"


def main() -> None:
    """Fork, run, and end as the child ended."""
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)  # the child reads neither this process's memory nor its files
    to_child, to_parent = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_child[1])
        os.close(to_parent[0])
        _run_program(to_child[0], to_parent[1])
    os.close(to_child[0])
    os.close(to_parent[1])
    order = json.load(sys.stdin)
    done = False
    if os.read(to_parent[0], 1) == _READY:
        tests, nonce = order["tests"].encode(), os.urandom(16)
        _send(to_child[1], nonce + struct.pack("<Q", len(tests)) + tests)
        done = _read(to_parent[0], 17) == _DONE + nonce
    os.close(to_child[1])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    if status == 0 and done:
        print(f"\n{order['word']}", flush=True)
    sys.exit(status)


def _run_program(tests: int, answer: int) -> None:
    """In the child: the program, then the tests in its own module. Errors end it as they end any program."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    source = Path("solution.py").read_text(encoding="utf-8")
    module = types.ModuleType("__main__")
    module.__file__ = "solution.py"
    sys.modules["__main__"] = module
    sys.argv = ["solution.py"]
    exec(compile(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
    os.write(answer, _READY)
    nonce = _read(tests, 16)
    (size,) = struct.unpack("<Q", _read(tests, 8))
    exec(compile(_read(tests, size).decode(), "tests", "exec", dont_inherit=True), module.__dict__)
    os.write(answer, _DONE + nonce)
    sys.exit(0)


def _send(pipe: int, data: bytes) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        while data:
            data = data[os.write(pipe, data) :]
    except BrokenPipeError:  # the child has ended
        pass


def _read(pipe: int, size: int) -> bytes:
    """`size` bytes, fewer where the other end is closed."""
    data = b""
    while len(data) < size and (part := os.read(pipe, size - len(data))):
        data += part
    return data


if __name__ == "__main__":
    main()
