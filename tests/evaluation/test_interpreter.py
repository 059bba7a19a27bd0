"""The interpreter: calls read back as they were written, state that lasts, output that can do nothing, and limits; the
conversation as ids is that of training."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.messages import Message
from ilm_ray.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from ilm_ray.evaluation.opencompass.conversation import fit, reply
from ilm_ray.evaluation.opencompass.endpoint import ContextWindow, Endpoint
from ilm_ray.evaluation.programs.interpreter import (
    LIMITS,
    SHOWN_CHARS,
    TURNS,
    Output,
    plain,
    read_reply,
    run_code,
    shots,
    solve,
    written,
)
from ilm_ray.evaluation.programs.sandbox import ProgramLimits

QUESTION: list[Message] = [{"role": "user", "content": "How much is 6 * 7?"}]
SHORT = ProgramLimits(cpu_s=1, wall_s=20.0)


def called(code: str) -> str:
    return f"I calculate.<|action_start|><|interpreter|>\n```python\n{code}\n```<|action_end|>"


def scripted(*replies: str) -> Callable[[Sequence[Message]], str]:
    left = list(replies)
    return lambda messages: left.pop(0)


@given(st.text(alphabet="ab =\n\t'\"(#", max_size=60), st.text(alphabet="ab \n.", max_size=20))
def test_a_call_is_read_back_as_it_was_written(code: str, text: str) -> None:
    message: Message = {
        "role": "assistant",
        "content": text,
        "action": {"name": "interpreter", "content": f"```python\n{code}\n```"},
    }
    back = read_reply(written(message))
    assert back.code == code.strip("\n") and back.text == text.rstrip()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("It is 42.", None),
        ("<|action_start|><|plugin|>\n{}<|action_end|>", None),
        ("So.<|action_start|><|interpreter|>\nprint(1)", "print(1)"),  # ended by a stop word, without a block
        ("So.\n```python\nprint(1)\n```", "print(1)"),  # special tokens left out by the endpoint
        ("```python\nprint(1)\n```\nFinalAnswer: 1", None),
        ("```\nprint(1)\n```", None),
    ],
)
def test_what_is_a_call(text: str, code: str | None) -> None:
    assert read_reply(text).code == code


@pytest.mark.process
def test_a_notebook_keeps_its_state_and_shows_the_last_code_alone() -> None:
    first = "print('seen once')\nx = 6\n1 / 0\nx = 0"
    done = run_code("y = x * 7\nprint('now')\ny", [first])
    assert (done.printed, done.error, done.lasts) == ("now\n42\n", "", True)
    assert run_code("import sympy\nsympy.Rational(1, 3) + 1", []).printed == "4/3\n"
    failed = run_code("x = 1\nprint(x)\nprint(nobody)", [])
    assert (failed.printed, failed.lasts) == ("1\n", True)
    assert failed.error == "NameError: name 'nobody' is not defined (line 3)"
    assert run_code("x =", []).error.endswith("SyntaxError: invalid syntax")
    assert run_code("pass", []).shown == "(no output)"


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("while True: pass", "processor time"),
        ("while True: print('x' * 2**20)", "bytes of output"),
        ("import os\nwhile True: os.fork()", "BlockingIOError"),
        ("x = bytearray(2**40)", "MemoryError"),
    ],
)
def test_code_that_means_harm_ends_and_says_why(code: str, why: str) -> None:
    done = run_code(code, [], SHORT)
    assert why in done.error and len(done.shown) < SHOWN_CHARS + 200


@given(st.lists(st.one_of(st.sampled_from([*SPECIALS, "\x1b[2J", "\u202e", "|>"]), st.text(max_size=5))).map("".join))
def test_output_holds_no_special_token_and_nothing_unseen(text: str) -> None:
    made = plain(text)
    assert not any(name in made for name in SPECIALS)
    assert all(c.isprintable() or c in "\n\t" for c in made)


@pytest.mark.process
def test_a_conversation_goes_to_its_answer() -> None:
    requests = list[list[Message]]()
    replies = scripted(called("x = 6"), called("x * 7"), "According to the response.\nFinalAnswer: 42")

    def ask(messages: Sequence[Message]) -> str:
        requests.append(list(messages))
        return replies(messages)

    solved = solve(QUESTION, ask)
    assert solved.answer == "42" and [m["role"] for m in solved.messages] == [
        "assistant", "environment", "assistant", "environment", "system", "assistant"
    ]  # fmt: skip
    assert [m["content"] for m in solved.messages if m["role"] == "environment"] == ["(no output)", "42"]
    assert [len(messages) for messages in requests] == [1, 3, 6]  # each time all that was said before
    assert [step["result"]["text"] for step in solved.steps] == ["", "42"]


def test_turns_are_limited_and_code_that_was_stopped_is_not_run_again() -> None:
    ran = list[tuple[str, list[str]]]()

    def run(code: str, earlier: Sequence[str]) -> Output:
        ran.append((code, list(earlier)))
        return Output("", "stopped", lasts=len(ran) != 1)

    solved = solve(QUESTION, scripted(*(called(f"step({i})") for i in range(TURNS))), run)
    assert solved.answer == "" and ran == [("step(0)", []), ("step(1)", [])] and TURNS == 3
    assert solved.steps[0]["errmsg"] == "stopped" and LIMITS.cpu_s * TURNS < 60


@pytest.mark.process
def test_shots_of_another_agent_become_calls_in_our_form() -> None:
    code = "def solution():\n    return 201"
    turns = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": f"Tool:PythonInterpreter\nTool Input:```python\n{code}\n```"},
        {"role": "system", "content": "Response:201"},
        {"role": "assistant", "content": "Thought: so\nFinalAnswer: 201"},
    ]
    made = shots(turns)
    assert [(m["role"], m.get("name")) for m in made] == [
        ("user", None), ("assistant", None), ("environment", "interpreter"), ("assistant", None)
    ]  # fmt: skip
    back = read_reply(written(made[1]))
    assert back.code is not None and run_code(back.code, []).shown == made[2]["content"] == "201"


class Recorder:
    """An endpoint that answers each route with the same words, and keeps what it was asked."""

    def __init__(self, text: str, status: int = 200) -> None:
        self.requests = list[tuple[str, dict[str, Any]]]()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body))
                payload = json.dumps({"choices": [{"index": 0, "text": text, "message": {"content": text}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.server.server_port}", 30.0)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tokenizer, Path]]:
    made, folder = Tokenizer(first_tokens(cl100k()[0], 1000), 1100), tmp_path_factory.mktemp("huggingface")
    made.save_huggingface(folder)
    yield made, folder


TALK: list[Message] = [
    {"role": "system", "name": "interpreter", "content": "Python runs here."},
    {"role": "user", "content": "How much is 6 * 7? <|im_end|>"},
    {"role": "assistant", "content": "I calculate.", "action": {"name": "interpreter", "content": "print(6 * 7)"}},
    {"role": "environment", "name": "interpreter", "content": "42 <|action_end|>"},
]


def test_a_conversation_is_sent_as_in_training(tokenizer: tuple[Tokenizer, Path]) -> None:
    with Recorder("It is 42.") as recorder:
        assert reply(recorder.endpoint, ContextWindow(str(tokenizer[1]), 4096), "m", TALK, 100) == "It is 42."
    ((route, body),) = recorder.requests
    assert route == "/v1/completions" and body["skip_special_tokens"] is False
    assert body["prompt"] == [encode_chat(tokenizer[0], TALK, generation_prompt=True).ids]


@pytest.mark.long
def test_without_a_tokenizer_a_call_is_text_and_a_refusal_is_one_line() -> None:
    with Recorder("It is 42.") as recorder:
        assert reply(recorder.endpoint, ContextWindow(None, 4096), "m", TALK, 100) == "It is 42."
    ((route, body),) = recorder.requests
    assert route == "/v1/chat/completions" and [m["role"] for m in body["messages"]] == [m["role"] for m in TALK]
    assert body["messages"][2]["content"].endswith("<|action_start|><|interpreter|>\nprint(6 * 7)<|action_end|>")
    with Recorder("unknown role", 400) as refusing, pytest.raises(RuntimeError, match="takes no conversation with an"):
        reply(refusing.endpoint, ContextWindow(None, 4096), "m", TALK, 100)


def test_what_does_not_fit_loses_its_shots_then_its_middle() -> None:
    shot: list[Message] = [{"role": "user", "content": "s" * 300}, {"role": "assistant", "content": "a" * 300}]
    long: list[Message] = [{"role": "environment", "name": "interpreter", "content": "o" * 3000}]
    talk, window = [TALK[0], *shot, *shot, *TALK[1:3]], ContextWindow(None, 4096)
    assert fit(talk, window, 4096) == talk
    assert fit(talk, window, 350) == [TALK[0], *shot, *TALK[1:3]]
    cut = fit([*talk, *long], window, 400)
    assert cut[:-1] == [TALK[0], *TALK[1:3]] and 0 < len(cut[-1]["content"]) < 1200
