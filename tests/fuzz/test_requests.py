"""Requests to the label page, byte by byte: an answer with a status that says whose fault it is, never 500."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ilm_ray.alignment.online.labels import read_comparisons, read_labels
from jobs.label_answers import Labels, serve
from tests.fuzz.limits import few, refusals
from tests.fuzz.made import as_json, texts

ANSWER_S = 60.0


def ask(port: int, request: bytes, whole: bool = True) -> tuple[int, bytes]:
    """Status and all bytes of the answer; 0 where the server only closes. A request that is not `whole` is cut off."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_S) as connection:
        try:
            connection.sendall(request)
            if not whole:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
        except TimeoutError:
            raise AssertionError(f"no answer within {ANSWER_S:g} s") from None
        except OSError:  # the server has closed before it read everything
            return 0, b""
    head = answer.split(b" ", 2)
    return (int(head[1]) if answer.startswith(b"HTTP/") else 0), answer


def posted(port: int, path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*head, *headers, "", ""]).encode("utf-8", "replace") + body


COMPARISONS = [
    {"id": name, "domain": "helpful", "prompt": [{"role": "user", "content": "Hi"}], "a": "x", "b": "y"}
    for name in ("1-0", "1-1")
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Labels, int]]:
    labels = Labels(tmp_path_factory.mktemp("labels") / "labels.jsonl", COMPARISONS)
    with serve(labels, 0) as server:
        failures = list[str]()
        server.handle_error = lambda request, address: failures.append(str(address))  # type: ignore[method-assign]
        labels.failures = failures  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield labels, int(server.server_address[1])
        server.shutdown()
        thread.join(10)


def label_page(page: tuple[Labels, int], request: bytes) -> None:
    """An answer of its own or a closed connection, no exception in the handler, no label without the page's token."""
    labels, port = page
    status, answer = ask(port, request, whole=False)
    assert not labels.failures, answer[:300]  # type: ignore[attr-defined]
    assert status in (0, 200, 303, 400, 403, 404, 405, 413, 414, 431, 501, 505), answer[:300]
    assert b"<script>alert" not in answer and not labels.labelled_rows and not labels.path.exists()


PATHS = st.one_of(
    texts, st.sampled_from(["/", "/label", "/?id=1-0", "//[", "http://[", "/?id=%ff", "/?" + "a&" * 500, "*"])
)
HEADERS = st.lists(
    st.tuples(st.sampled_from(["Host", "Origin", "Content-Length", "Expect", "X"]), texts).map(": ".join), max_size=3
)


@given(st.sampled_from(["GET", "POST", "HEAD", "PUT", "\0"]), PATHS, HEADERS, st.binary(max_size=40), st.booleans())
@example("GET", "http://[", [], b"", True)
@example("POST", "/label", ["Content-Length: " + "9" * 5000], b"", True)
@example("POST", "/label", ["Content-Length: \u00b2"], b"", True)
@few(40)
def test_any_request_to_the_label_page(
    page: tuple[Labels, int], method: str, path: str, headers: list[str], body: bytes, hosted: bool
) -> None:
    host_lines = [f"Host: 127.0.0.1:{page[1]}"] if hosted else []
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *host_lines, *headers, "", ""])
    label_page(page, head.encode("utf-8", "replace") + body)


@given(st.dictionaries(st.sampled_from(["id", "label", "token", "x"]), texts, max_size=4))
@few(25)
def test_any_form_without_the_token_is_no_label(page: tuple[Labels, int], form: dict[str, str]) -> None:
    body = urlencode({key: value.encode("utf-8", "surrogatepass") for key, value in form.items()}).encode()
    label_page(page, posted(page[1], "/label", body))


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=3, unique_by=lambda row: row[0]))
@example([("\ud800", "\ud800", "\ud800")])
@example([("1-0", "\ud800", "\ud800")])
@example([("", "", ""), ("9" * 5000, "", "")])
@few(10)
def test_any_comparisons_are_shown_and_labelled(rows: list[tuple[str, str, str]]) -> None:
    """Answers are what models said, lone surrogates of a JSON file included; an id must be a text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "comparisons.jsonl")
        path.write_bytes(b"\n".join(as_json(COMPARISONS[0] | {"id": i, "a": a, "b": b}) for i, a, b in rows))
        comparisons = list[Any]()
        with refusals():
            comparisons = read_comparisons(path)
        if not comparisons:
            return
        labels = Labels(Path(folder, "labels.jsonl"), comparisons)
        with serve(labels, 0) as server:
            failures = list[Any]()
            server.handle_error = lambda request, address: failures.append(address)  # type: ignore[method-assign]
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            port = int(server.server_address[1])
            try:
                while (number := labels.next()) is not None:
                    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
                    status, answer = ask(port, request.encode())
                    assert (status, failures) == (200, []), answer[:200]
                    token = answer.split(b'name="token" value="')[1].split(b'"')[0].decode()
                    form = urlencode({"id": comparisons[number]["id"], "label": "tie", "token": token})
                    status, answer = ask(port, posted(port, "/label", form.encode()))
                    assert (status, failures) == (303, []), answer[:200]
            finally:
                server.shutdown()
        assert {row["id"] for row in read_labels(labels.path)} == {row["id"] for row in comparisons}
