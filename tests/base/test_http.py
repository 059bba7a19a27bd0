"""Requests against a real server on this machine that answers as servers under load do."""

import email.utils
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ilm_ray.base import endpoint
from ilm_ray.base.endpoint import NoAnswer, ask
from ilm_ray.base.http import ATTEMPTS, LONGEST_PAUSE_S, PAUSE_S, HttpError, is_here, opened, pause_s, post_json

GOOD = {"choices": [{"message": {"content": "A"}}]}


class Server(ThreadingHTTPServer):
    """`plan` has the answers in their order; the last one stays."""

    plan: list[str]
    asked: list[Any]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((sent, self.headers.get("Authorization")))
        kind = self.server.plan.pop(0) if len(self.server.plan) > 1 else self.server.plan[0]
        body, status, length = json.dumps(GOOD).encode(), 200, None
        if kind.isdigit():
            status, body = int(kind), b'{"error": "no, my-secret"}'
        elif kind == "cut":
            length, body = len(body), body[:10]
        elif kind == "html":
            body = b"<html>gateway</html>"
        self.send_response(status)
        if status in (429, 503):
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *words: object) -> None: ...


@pytest.fixture()
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.plan, made.asked = ["ok"], []
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1/chat/completions"


@pytest.mark.parametrize("kind", ["408", "425", "429", "500", "502", "503", "504", "cut", "html"])
def test_what_may_pass_is_tried_again_after_the_pause_that_the_server_names(server: Server, kind: str) -> None:
    slept = list[float]()
    server.plan = [kind, kind, "ok"]
    assert post_json(url(server), {"a": 1}, 10.0, sleep=slept.append) == GOOD
    assert len(server.asked) == 3 and all(sent == {"a": 1} for sent, _ in server.asked)
    assert slept == ([7.0, 7.0] if kind in ("429", "503") else [PAUSE_S, 2 * PAUSE_S])


@pytest.mark.parametrize("kind", ["400", "401", "403", "404", "422"])
def test_a_refusal_is_raised_at_once_without_the_key(server: Server, kind: str) -> None:
    server.plan = [kind]
    with pytest.raises(HttpError, match=f"answered {kind}") as refused:
        post_json(url(server), {}, 10.0, key="my-secret")
    assert "my-secret" not in str(refused.value) and refused.value.status == int(kind)
    assert [key for _, key in server.asked] == ["Bearer my-secret"]


@pytest.mark.parametrize("kind", ["429", "503", "cut", "html"])
def test_attempts_come_to_an_end(server: Server, kind: str) -> None:
    slept = list[float]()
    server.plan = [kind]
    with pytest.raises(HttpError):
        post_json(url(server), {}, 10.0, sleep=slept.append)
    assert len(server.asked) == ATTEMPTS and len(slept) == ATTEMPTS - 1
    with pytest.raises(HttpError, match="did not answer"):
        post_json("http://127.0.0.1:9/", {}, 1.0, sleep=slept.append)
    server.asked.clear()
    with pytest.raises(HttpError):
        post_json(url(server), {}, 10.0, within_s=1.0, sleep=slept.append)
    assert len(server.asked) == 1, "no pause goes beyond the time for all"


def test_the_pause_is_the_servers_wish_within_bounds() -> None:
    now = time.time()
    date = email.utils.formatdate(now + 30, usegmt=True)
    assert pause_s(1, date, lambda: now) == pytest.approx(30, abs=1.1)
    assert pause_s(1, "2.5") == 2.5 and pause_s(3, None) == 4 * PAUSE_S
    assert pause_s(1, "1e9") == LONGEST_PAUSE_S and pause_s(1, "-5") == 0.0
    assert pause_s(1, "soon") == PAUSE_S == pause_s(1, "nan")


def test_this_machines_servers_are_asked_past_any_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert post_json(url(server), {}, 10.0) == GOOD
    assert ask(f"http://127.0.0.1:{server.server_port}/v1", "m", "s", "u", 5, 10.0) == "A"
    with pytest.raises(OSError):  # another machine's are asked through it
        opened(urllib.request.Request("http://192.0.2.1/"), 5.0)
    assert all(map(is_here, ("http://localhost/", "http://[::1]:80/", "http://127.8.9.1/", "http://a.localhost")))
    assert not any(map(is_here, ("http://192.0.2.1/", "http://no-such-name.invalid/", "http:///", "http://[fe80::1]/")))


def test_an_opinion_that_is_no_completion_is_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "post_json", lambda *a, **k: {"choices": []})
    with pytest.raises(NoAnswer, match="IndexError"):
        ask(f"http://127.0.0.1:{server.server_port}", "m", "s", "u", 5, 10.0)
