"""Reward functions in their processes: verdicts come, and no function can keep, kill or flood whoever asks."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.evaluation.verifiers.named import reward_function, source_of
from ilm_ray.evaluation.verifiers.worker import FunctionProcess
from tests.endpoints import Reply, answering

pytestmark = pytest.mark.process

HOSTILE = """
import os, sys, time, signal

def score(prompt, answer, metadata, times=1):
    return {"right": float(answer == metadata["answer"]) * times, "turns": len(prompt)}

def hostile(prompt, answer, metadata):
    if answer == "raise": raise RuntimeError("no " + "x" * 10_000)
    if answer == "nan": return float("nan")
    if answer == "text": return "good"
    if answer == "sleep": time.sleep(3600)
    if answer == "spin":
        while True: pass
    if answer == "print":
        for _ in range(1024): print("y" * (1 << 20))
    if answer == "read": return float(len(sys.stdin.read()))
    if answer == "exit": os._exit(0)
    if answer == "quit": sys.exit(3)
    if answer == "stop": os.kill(os.getpid(), signal.SIGSTOP)
    if answer == "flood":
        for fd in range(3, 64):
            try: os.write(fd, b"z" * (1 << 20))
            except OSError: pass
    if answer == "forge":
        for fd in range(3, 64):
            try: os.write(fd, b'{"parts": {"": "1"}}\\n')
            except OSError: pass
        time.sleep(3600)
    if answer == "child":
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "3600"); time.sleep(3600)
    return 1.0
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "own_reward.py").write_text(HOSTILE)
    return tmp_path


def test_a_function_of_ones_own_is_asked_with_prompt_answer_metadata_and_options(module: Path) -> None:
    worker = FunctionProcess("own_reward:score", {"times": 3}, 20.0, module)
    prompt = [{"role": "user", "content": "2+2?"}]
    assert worker.ask(prompt, "4", {"answer": "4"}) == {"right": 3.0, "turns": 1.0}
    assert worker.ask(prompt, "\u2028é", {"answer": "4"}) == {"right": 0.0, "turns": 1.0}
    assert worker.ask(prompt, "x" * 5_000_000, {"answer": "4"}) == {
        "right": 0.0,
        "turns": 1.0,
    }  # more than a pipe holds
    assert worker.ask(prompt, "4", {}) == "KeyError: 'answer'"
    worker.stop()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("raise", "RuntimeError: no xxx"),
        ("nan", "ValueError: nan came back"),
        ("text", "TypeError: str came back"),
        ("sleep", "no answer within 2 s"),
        ("spin", "no answer within 2 s"),
        ("stop", "no answer within 2 s"),
        ("exit", "its process ended"),
        ("quit", "its process ended"),
        ("flood", "it wrote "),
        ("forge", "it wrote what is no verdict"),
        ("child", "no answer within 2 s"),
    ],
)
def test_a_function_that_fails_costs_its_answer_and_the_next_is_judged(module: Path, answer: str, why: str) -> None:
    worker, started = FunctionProcess("own_reward:hostile", {}, 2.0, module), time.monotonic()
    verdict = worker.ask([], answer, {})
    assert isinstance(verdict, str) and why in verdict and len(verdict) < 400
    assert worker.ask([], "good", {}) == {"": 1.0}
    assert time.monotonic() - started < 60
    worker.stop()


def test_what_it_prints_and_reads_goes_nowhere(module: Path) -> None:
    worker = FunctionProcess("own_reward:hostile", {}, 60.0, module)
    assert worker.ask([], "print", {}) == {"": 1.0} and worker.ask([], "read", {}) == {"": 0.0}
    worker.stop()
    assert worker.ask([], "good", {}) == {"": 1.0}  # and it can be begun again
    worker.stop()


def test_code_is_judged_by_its_tests_in_the_sandbox() -> None:
    worker = FunctionProcess("code", {"wall_s": 5.0}, 120.0, Path())
    tests = {"tests": "assert double(4) == 8"}
    right = "Like this:\n```python\ndef double(x):\n    return 2 * x\n```\n"
    assert worker.ask([], right, tests) == {"": 1.0}
    assert worker.ask([], right.replace("2 *", "3 *"), tests) == {"": 0.0}
    assert worker.ask([], "```python\nimport os\nos._exit(0)\n```", tests) == {"": 0.0}  # it ends before its tests
    outside = f"import os\nos.kill({os.getpid()}, 9)\n"
    assert worker.ask([], outside, tests) == {"": 0.0}  # another user's processes are out of its reach
    assert worker.ask([], "def double(x):\n    while True: pass", tests) == {"": 0.0}
    worker.stop()


def test_names_that_lead_nowhere_are_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_reward.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="no module 'nowhere_to_be_found'"):
        source_of("nowhere_to_be_found:score", Path.cwd())
    with pytest.raises(UserError, match="cannot be imported: ZeroDivisionError"):
        reward_function("broken_reward:score")
    with pytest.raises(UserError, match=r"os\.path has no function 'nothing'"):
        reward_function("os.path:nothing")
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    (tmp_path / "pack" / "inner" / "own.py").write_text("raise SystemExit")
    assert source_of("broken_reward:score", tmp_path) == tmp_path / "broken_reward.py"
    assert source_of("pack.inner.own:score", tmp_path) == tmp_path / "pack" / "inner" / "own.py"
    assert source_of("mathematics", tmp_path) is None
    with pytest.raises(UserError, match=r"no module 'pack\.inner'"):
        source_of("pack.inner:score", tmp_path)
    worker = FunctionProcess("broken_reward:score", {}, 5.0, tmp_path)
    assert "cannot be imported: ZeroDivisionError" in str(worker.ask([], "x", {}))


def test_a_judge_behind_an_endpoint_gives_its_grade_and_nothing_else() -> None:
    asked = list[list[dict[str, Any]]]()

    def reply(messages: list[dict[str, Any]]) -> Reply:
        asked.append(messages)
        answer = messages[1]["content"].split("Answer:\n")[1]
        if answer == "slow":
            time.sleep(3)
        replies: dict[str, Reply] = {"good": "9", "bad": " 0\n", "chatty": "I give it a 7.", "high": "11", "gone": 404}
        return replies.get(answer, "5")

    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    with answering(reply) as url:
        worker = FunctionProcess("judge", {"url": url, "model": "m", "wait_s": 1.0}, 20.0, Path.cwd())
        try:
            verdicts = {
                name: worker.ask(prompt, name, {}) for name in ("good", "bad", "chatty", "high", "gone", "slow")
            }
            again = worker.ask(prompt, "good", {})
        finally:
            worker.stop()
    assert verdicts["good"] == again == {"": 0.9} and verdicts["bad"] == {"": 0.0}
    assert "no number from 0 to 10: 'I give it a 7.'" in str(verdicts["chatty"])
    assert "no number" in str(verdicts["high"]) and "404" in str(verdicts["gone"])
    assert "NoAnswer" in str(verdicts["slow"])
    assert "[system]\nbe brief\n\n[user]\nwhy?" in asked[0][1]["content"]
