"""Files of a git repository at HEAD, read from its objects: no checkout, no hooks, no filters, no network."""

import os
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from ilm_ray.base.errors import UserError
from ilm_ray.data.code.files.entries import Entry, Listing, ReadLimits

DEADLINE_S = 600.0
_REGULAR = (b"100644", b"100755", b"100664")
# A repository's own configuration is a stranger's: nothing in it may start a program or reach out.
_GIT = (
    "git", "--no-optional-locks", "-c", "safe.directory=*", "-c", "core.fsmonitor=false",
    "-c", "core.hooksPath=/dev/null",
)  # fmt: skip
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ALLOW_PROTOCOL": "none",  # a partial clone would fetch what it lacks
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


def head(location: str) -> str:
    """The commit at HEAD. Raises UserError where there is none."""
    return _output(location, "rev-parse", "--verify", "--end-of-options", "HEAD^{commit}").decode().strip()


def list_files(location: str, revision: str) -> Listing:
    """Regular files of a commit; links and submodules are left out. Raises UserError where objects are missing."""
    entries, left_out = list[Entry](), Counter[str]()
    for line in _output(location, "ls-tree", "-r", "-z", "-l", "--full-tree", revision).split(b"\0")[:-1]:
        about, _, name = line.partition(b"\t")
        mode, _, number, size = about.split()
        if mode in _REGULAR:
            entries.append(Entry(os.fsdecode(name), int(size), number.decode()))
        else:
            left_out["no_regular_file"] += 1
    return Listing(entries, left_out)


def read_files(location: str, entries: Iterable[Entry], limits: ReadLimits) -> Iterator[tuple[Entry, bytes]]:
    """At most `limits.file_bytes` + 1 bytes of each entry. Raises UserError where an object is missing."""
    wanted = list(entries)
    with tempfile.TemporaryFile() as numbers:  # a pipe for both directions could block on both ends
        numbers.write("".join(f"{entry.member}\n" for entry in wanted).encode())
        numbers.seek(0)
        command = [*_GIT, "-C", location, "cat-file", "--batch"]
        with subprocess.Popen(
            command, stdin=numbers, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
        ) as process:
            assert process.stdout is not None
            timer = threading.Timer(DEADLINE_S, process.kill)
            timer.start()
            try:
                for entry in wanted:
                    header = process.stdout.readline().split()
                    if len(header) != 3 or header[1] != b"blob":
                        raise _failed(location, f"object {entry.member} of {entry.path} is missing")
                    left = int(header[2]) + 1  # a line break follows
                    content = process.stdout.read(min(left - 1, limits.file_bytes + 1))
                    yield entry, content
                    left -= len(content)
                    while left and (skipped := process.stdout.read(min(left, 1 << 20))):
                        left -= len(skipped)
            finally:
                timer.cancel()
                process.kill()


def _output(location: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(
            [*_GIT, "-C", location, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            timeout=DEADLINE_S,
        )
    except FileNotFoundError:
        raise UserError(f"code.source: {location} is a git repository and git is not installed; install it") from None
    except subprocess.TimeoutExpired:
        raise _failed(location, f"git took longer than {DEADLINE_S:.0f} s") from None
    if done.returncode:
        raise _failed(
            location, (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"])[-1]
        )
    return done.stdout


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _ENVIRONMENT


def _failed(location: str, why: str) -> UserError:
    return UserError(f"code.source: cannot read git repository {location}: {why}; mend it or leave it out")
