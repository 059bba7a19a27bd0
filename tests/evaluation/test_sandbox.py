"""Programs that mean harm, each of which must be a failed sample with its reason and leave nothing behind."""

import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ilm_ray.evaluation.programs.sandbox import TOOLCHAINS, ProgramLimits, _run, isolation, missing, run_in_sandbox
from ilm_ray.evaluation.programs.sandbox_child import LIMITS, NAMESPACES

pytestmark = pytest.mark.process

SHORT = ProgramLimits(cpu_s=1, wall_s=60.0)
apart = pytest.mark.skipif(isolation() != NAMESPACES, reason=f"this system allows no more than '{isolation()}'")


def processes_with(mark: str) -> list[int]:
    """Processes of this machine whose command line holds `mark`."""
    pids = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    pids.append(int(folder.name))
            except OSError:
                continue
    return pids


def test_a_good_program_answers() -> None:
    done = run_in_sandbox("print(sum(map(int, input().split())))", "1 2 39\n")
    assert done.passed and done.stdout == "42\n" and done.exit_code == 0 and done.isolation == isolation()


def test_a_failing_program_says_why() -> None:
    done = run_in_sandbox("assert 1 + 1 == 3, 'sums'")
    assert (done.reason, done.exit_code) == ("exit", 1) and "AssertionError: sums" in done.detail


def test_programs_side_by_side_keep_to_themselves() -> None:
    program = "import os; open('mark', 'x').write('a'); print(sorted(os.listdir('.')), input())"
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: run_in_sandbox(program, f"{n}\n"), range(16)))
    assert [o.stdout for o in outcomes] == [f"['main.py', 'mark'] {n}\n" for n in range(16)]


@apart
def test_a_fork_bomb_is_held_and_ended() -> None:
    program = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    started = time.monotonic()
    done = run_in_sandbox(program, limits=ProgramLimits(cpu_s=20, wall_s=2.0, processes=32))
    assert done.reason == "wall" and time.monotonic() - started < 30
    ending = """
import os, time
n = 0
try:
    while n < 500:
        if os.fork() == 0:
            time.sleep(60)
        n += 1
except OSError:
    pass
print(n)
"""
    counted = run_in_sandbox(ending, limits=ProgramLimits(processes=32))
    assert counted.passed and 20 <= int(counted.stdout) < 32
    assert not processes_with("-I\0main.py")


def test_an_endless_loop_runs_into_its_limits() -> None:
    assert run_in_sandbox("while True: pass", limits=SHORT).reason == "cpu"
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run_in_sandbox(deaf, limits=SHORT).reason == "cpu"
    sleeper = run_in_sandbox("import time\nwhile True: time.sleep(1)", limits=ProgramLimits(wall_s=1.0))
    assert sleeper.reason == "wall" and sleeper.wall_s < 20


@apart
@pytest.mark.parametrize(
    ("allocation", "reason"),
    [
        ("x = bytearray(50 * 2**30)", "exit"),  # refused to the process at once
        ("import mmap; m = mmap.mmap(-1, 4 * 2**30)\nfor i in range(0, 4 * 2**30, 4096): m[i] = 1", "memory"),
        ("import os, time\nfor _ in range(20): os.fork() or (b'a' * 2**27, time.sleep(40))\ntime.sleep(40)", "memory"),
        ("f = open('big', 'wb')\nwhile True: f.write(b'0' * 2**20)", "exit"),
    ],
    ids=["private", "shared", "many processes", "files"],
)
def test_50_gb_are_not_to_be_had(allocation: str, reason: str) -> None:
    done = run_in_sandbox(allocation, limits=ProgramLimits(cpu_s=20, wall_s=30.0, memory_bytes=512 * 2**20))
    assert done.reason == reason, done
    assert done.peak_bytes < 2 * 2**30


@apart
def test_nothing_outside_its_folder_can_be_deleted_or_read(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("secret")
    kept.chmod(0o666)
    tmp_path.chmod(0o777)
    program = f"""
import os, shutil
print(os.path.exists({str(kept)!r}))
for path in ('/usr/bin', '/etc', {str(tmp_path)!r}, '/proc/1/root/bin'):
    shutil.rmtree(path, ignore_errors=True)
for path in ('/usr/x', '/etc/x', '/x', {str(kept)!r}):
    try: open(path, 'w'); print('wrote', path)
    except OSError: pass
for path in ('/etc/shadow', os.path.expanduser('~root/.ssh'), '/proc/1/environ', '/proc/1/mem'):
    try: print(open(path).read())
    except OSError: pass
print(os.path.isdir('/usr/bin'))
"""
    done = run_in_sandbox(program)
    assert done.stdout == "False\nTrue\n", done
    assert kept.read_text() == "secret" and Path("/usr/bin").is_dir()


@apart
def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        done = run_in_sandbox(f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)")
        assert done.reason == "exit" and "OSError" in done.detail
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_environment_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    program = """import glob, os
print(dict(os.environ))
for path in glob.glob('/proc/*/environ'):
    try:
        print(open(path).read())
    except OSError:
        pass
"""
    done = run_in_sandbox(program)
    if isolation() == NAMESPACES:
        assert "hunter2" not in done.stdout and "SECRET" not in done.stdout
    assert done.stdout.startswith("{'PATH'") and "SECRET" not in done.stdout.splitlines()[0]


def test_a_gigabyte_of_output_is_cut() -> None:
    started = time.monotonic()
    done = run_in_sandbox(
        "import sys\nfor _ in range(2**10): sys.stdout.write('x' * 2**20)", limits=ProgramLimits(wall_s=60)
    )
    assert done.reason == "output" and len(done.stdout) <= 2**20 and time.monotonic() - started < 30


@apart
def test_no_new_privileges() -> None:
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(1 << 28), libc.unshare(1 << 17), libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))
os.kill(1, 9)
print(open('/proc/self/status').read().split('CapEff:')[1].split()[0], os.getuid())
"""
    assert run_in_sandbox(program).stdout == "-1 -1 -1\n0000000000000000 65534\n"


def test_a_plain_user_is_as_safe() -> None:
    """Root runs the other tests; a plain user makes a user namespace first, and everything else within it."""
    python, root = shutil.which("python3.11", path="/usr/bin"), Path(__file__).parents[2]
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root, to become another user, and a Python that all users may run")
    program = """
import os, socket
print(sorted(os.listdir('/')), os.getuid())
for attempt in (lambda: open('/usr/x', 'w'), lambda: socket.create_connection(('127.0.0.1', 9), 3), os.fork):
    try: attempt()
    except OSError: print('refused')
"""
    call = f"""
from ilm_ray.evaluation.programs.sandbox import *
print(isolation())
print(run_in_sandbox({program!r}, limits=ProgramLimits(processes=2)).stdout, end='')
"""
    env = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", call], user=65534, group=65534, env=env, cwd="/tmp", capture_output=True, text=True
    )
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip("other users cannot read the repository")
    level, seen, *refused = done.stdout.splitlines()
    if level != NAMESPACES:
        pytest.skip(f"this system allows a plain user no more than '{level}'")
    assert "home" not in seen and "root" not in seen and seen.endswith("65534") and refused == ["refused"] * 3


def test_a_process_of_its_own_session_does_not_outlive_it() -> None:
    mark = f"sleeper-{os.getpid()}"
    program = f"""import subprocess, sys
sleep = [sys.executable, '-c', 'import time; time.sleep(60)', '{mark}']
subprocess.Popen(sleep, start_new_session=True)
"""
    for level in {isolation(), LIMITS}:
        assert _run(program, "", [ProgramLimits()], TOOLCHAINS["python"], level).passed
        assert not processes_with(mark), level


def test_a_caller_that_is_killed_takes_the_program_with_it() -> None:
    mark = f"orphan_{os.getpid()}"
    sleep = f"[sys.executable, '-c', 'import time; time.sleep(60)', '{mark}_inside']"
    inner = f"import subprocess, sys; subprocess.run({sleep})"
    call = f"from ilm_ray.evaluation.programs.sandbox import run_in_sandbox; run_in_sandbox({inner!r})"
    caller = subprocess.Popen([sys.executable, "-c", call])
    until = time.monotonic() + 30
    while not (inside := [p for p in processes_with(f"{mark}_inside") if p != caller.pid]) and time.monotonic() < until:
        time.sleep(0.05)
    assert inside
    caller.kill()
    caller.wait()
    while processes_with(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert not processes_with(mark)


HELLO = {
    "python": "print(input())",
    "cpp": """#include <iostream>
#include <string>
int main() { std::string s; std::getline(std::cin, s); std::cout << s; }
""",
    "java": """class Main {
    public static void main(String[] a) { System.out.print(new java.util.Scanner(System.in).nextLine()); }
}
""",
    "javascript": "console.log(require('fs').readFileSync(0, 'utf8').trim())",
    "go": """package main
import ("bufio"; "fmt"; "os")
func main() { s := bufio.NewScanner(os.Stdin); s.Scan(); fmt.Print(s.Text()) }
""",
}


@pytest.mark.parametrize("language", TOOLCHAINS)
def test_languages_run_or_are_reported(language: str) -> None:
    done = run_in_sandbox(
        HELLO[language], "hello\n", ProgramLimits(cpu_s=60, wall_s=90.0, memory_bytes=2**31), language
    )
    if missing(language):
        assert done.reason == "not_installed" and "not installed" in done.detail
    else:
        assert done.passed and done.stdout.strip() == "hello", done


def test_a_compiler_error_is_one() -> None:
    if missing("cpp"):
        pytest.skip(str(missing("cpp")))
    assert run_in_sandbox("int main() { return x; }", language="cpp").reason == "compile"
