"""A program passes if it reaches its end: not by leaving early, not by printing what a passing one would print."""

import pytest

from ilm_ray.evaluation.programs.passing import ProgramAndTests, pass_rate
from ilm_ray.evaluation.programs.sandbox import ProgramLimits

PASSES = ("assert 1 + 1 == 2", "print('x' * 1000)", "")
FAILS = ("assert 1 + 1 == 3", "import os\nos._exit(0)", "raise SystemExit(0)", "def f(:", "while True: pass")


@pytest.mark.process
def test_only_programs_that_reach_their_end_pass() -> None:
    programs = [ProgramAndTests("", tests) for tests in (*PASSES, *FAILS)]
    result = pass_rate(programs, ProgramLimits(cpu_s=1, wall_s=20.0), "score")
    verdicts = [result["details"][str(i)]["is_correct"] for i in range(len(PASSES) + len(FAILS))]
    assert verdicts == [True] * len(PASSES) + [False] * len(FAILS)
    assert result["score"] == 100 * len(PASSES) / len(verdicts)


RIGHT = "def f(x):\n    return x + 1\n"
TESTS = "def check(f):\n    assert f(1) == 2\n    assert f(41) == 42\ncheck(f)\n"
SOUND = {
    "as it is": RIGHT,
    "prints at its end": RIGHT + "import atexit\natexit.register(print, 'good bye')\nprint('hello')\n",
    "reads its standard input": RIGHT + "import sys\nassert sys.stdin.read() == ''\n",
    "runs as main": RIGHT + "if __name__ == '__main__':\n    print(f(3))\n",
    "imports of the future": "from __future__ import annotations\nimport dataclasses, pickle\n@dataclasses.dataclass\n"
    "class A:\n    x: int\nassert pickle.loads(pickle.dumps(A(1))) == A(1)\n" + RIGHT,
}
# The first names of what a program could look through for what it should not have.
_LOOK = """
import glob, os, re, sys
def known():
    found = []
    for path in [__file__, sys.argv[0], *glob.glob('**', recursive=True), *glob.glob('/tmp/*'),
                 *glob.glob('/tmp/ilm*/**', recursive=True),
                 '/proc/self/fd/0', *glob.glob('/proc/*/fd/*'), *glob.glob('/proc/*/mem')]:
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe with nothing in it must not hold it up
            if '/mem' not in path:
                found.append(os.read(file, 1 << 20))
            os.close(file)
        except OSError:
            pass
    try:
        os.lseek(0, 0, 0)
        found.append(os.read(0, 1 << 16))
    except OSError:
        pass
    return b' '.join(found)
"""
CHEATS = {
    "prints every word that it finds": _LOOK + "for word in re.findall(rb'[0-9a-f]{32}', known()):\n"
    "    print('\\n' + word.decode())\nsys.exit(0)\n",
    "does so when it is asked": _LOOK + "def f(x):\n    for word in re.findall(rb'[0-9a-f]{32}', known()):\n"
    "        print('\\n' + word.decode(), flush=True)\n    os._exit(0)\n",
    "reads what is wanted": _LOOK + "wanted = dict(re.findall(rb'f\\((\\d+)\\) == (\\d+)', known()))\n"
    "def f(x):\n    return int(wanted[str(x).encode()])\n",
    "ends early": "import os\nos._exit(0)\n",
    "looks for the parent's word": _LOOK + "import gc\n"
    "for thing in gc.get_objects():\n    if isinstance(thing, dict) and 'word' in thing:\n"
    "        print('\\n' + str(thing['word']))\nsys.exit(0)\n",
}


@pytest.mark.process
def test_neither_its_file_nor_its_input_tells_a_program_what_would_pass() -> None:
    programs = [ProgramAndTests(program, TESTS) for program in (*SOUND.values(), *CHEATS.values())]
    details = pass_rate(programs, ProgramLimits(cpu_s=5, wall_s=30.0), "score")["details"]
    verdicts = {name: details[str(i)]["is_correct"] for i, name in enumerate((*SOUND, *CHEATS))}
    assert verdicts == dict.fromkeys(SOUND, True) | dict.fromkeys(CHEATS, False)
    assert "assert f(1) == 2" in details["0"]["program"]
    number = [*SOUND, *CHEATS].index("ends early")
    assert details[str(number)]["result"] == "ended before its tests" and details["0"]["result"] == ""


@pytest.mark.process
def test_the_outcome_is_that_of_the_program() -> None:
    tests = [
        ProgramAndTests("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", ""),
        ProgramAndTests("while True: pass", ""),
        ProgramAndTests("", "raise ValueError('of the tests')"),
    ]
    details = pass_rate(tests, ProgramLimits(cpu_s=1, wall_s=20.0), "score")["details"]
    results = [details[str(i)]["result"] for i in range(3)]
    assert "SIGTERM" in results[0] and "processor time" in results[1] and "ValueError: of the tests" in results[2]
