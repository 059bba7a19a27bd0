"""The judge's verdicts over real HTTP: believed only where they are clear, never waited for beyond the deadline."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ilm_ray.alignment.online.hacking import Answer, AnswerPair
from ilm_ray.alignment.online.judge import ask_judge, judged_pairs

PAIRS: list[AnswerPair] = [
    (
        Answer(f"p{i}", "code", 0, 0, f"good answer {i}", 0.0),
        Answer(f"p{i}", "code", 9, 9, f"bad answer {i}", 1.0 if i % 3 else -1.0),
    )
    for i in range(60)
]
PROMPTS = {f"p{i}": [{"role": "user", "content": f"question {i}"}] for i in range(60)}


@contextmanager
def _endpoint(verdict: Callable[[str, str], str]) -> Iterator[str]:
    """verdict: (answer A, answer B) -> what the endpoint says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][1]["content"]
            a, b = question.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
            body = json.dumps({"choices": [{"message": {"content": verdict(a, b)}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/"
        server.shutdown()
        thread.join(10)


def test_a_judge_that_prefers_early_answers_has_drifted_from_the_score() -> None:
    with _endpoint(lambda a, b: " a.\n" if a.startswith("good") else "B") as url:
        verdicts = ask_judge(url, "m", PAIRS, PROMPTS, 30, 1)
    assert (verdicts.asked, verdicts.early, verdicts.late) == (40, 40, 0) and verdicts.drifted
    rows = judged_pairs(verdicts, PROMPTS, "round-1-judge")
    assert len(rows) == 40 and all(row["chosen"].startswith("good") for row in rows)
    assert all(row["prompt"] == PROMPTS[f"p{row['chosen'].split()[-1]}"] for row in rows)


@pytest.mark.long
def test_a_judge_that_agrees_or_only_likes_the_first_answer_has_not() -> None:
    with _endpoint(lambda a, b: "A" if a.startswith("bad") else "B") as url:
        agreed = ask_judge(url, "m", PAIRS, PROMPTS, 30, 1)
    assert (agreed.early, agreed.late) == (0, 40) and not agreed.drifted
    with _endpoint(lambda a, b: "A") as url:
        biased = ask_judge(url, "m", PAIRS, PROMPTS, 30, 1)
    assert biased.early + biased.late == 40 and not biased.drifted
    with _endpoint(lambda a, b: "A is far better because") as url:
        unclear = ask_judge(url, "m", PAIRS, PROMPTS, 30, 1)
    assert (unclear.asked, unclear.early, unclear.late) == (40, 0, 0) and not unclear.drifted


@pytest.mark.long
def test_a_judge_that_does_not_answer_costs_no_more_than_the_deadline() -> None:
    def slow(a: str, b: str) -> str:
        time.sleep(1.5)
        return "A"

    started = time.monotonic()
    with _endpoint(slow) as url:
        verdicts = ask_judge(url, "m", PAIRS, PROMPTS, 0.5, 1)
        spent = time.monotonic() - started
    assert verdicts.early + verdicts.late == 0 and spent < 5
    assert ask_judge("http://127.0.0.1:9/v1", "m", PAIRS, PROMPTS, 5, 1).asked == 40
