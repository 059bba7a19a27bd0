"""The page for labels: over HTTP, against strangers, and in a real browser with keys and a small screen."""

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ilm_ray.alignment.online.labels import labelled_pairs, read_labels
from ilm_ray.base.errors import UserError
from jobs.label_answers import Labels, _sides, serve
from tests.browser import BINARY, Browser
from tests.made_text import HOSTILE

ROWS = [
    {
        "id": f"1-{number:05d}",
        "round": 1,
        "domain": "helpful",
        "prompt": [{"role": "user", "content": f"What is {number}? {HOSTILE}"}],
        "a": f"first {number} <script>document.title='owned'</script>",
        "b": f"second {number} 好",
        "a_from": "sft",
        "b_from": "late",
    }
    for number in range(4)
]


@contextmanager
def _served(folder: Path) -> Iterator[tuple[Labels, int]]:
    labels = Labels(folder / "labels.jsonl", ROWS)
    with serve(labels, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield labels, int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join(10)


def _ask(
    port: int, method: str = "GET", path: str = "/", body: str | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        sent = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        connection.request(method, path, body, sent | headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def _token(page: str) -> str:
    match = re.search(r'name="token" value="([^"]+)"', page)
    assert match is not None
    return match[1]


def test_labels_are_kept_one_by_one_and_the_work_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with _served(tmp_path) as (labels, port):
        for number, label in enumerate(("a", "tie", "b")):
            _, page, _ = _ask(port)
            assert f"What is {number}?" in page and f"{number} of 4 labelled" in page
            form = urlencode({"id": ROWS[number]["id"], "label": label, "token": _token(page)})
            code, _, headers = _ask(port, "POST", "/label", form, Origin=f"http://127.0.0.1:{port}")
            assert code == 303 and headers["Location"] == f"/?id=1-{number + 1:05d}"
            assert [row["label"] for row in read_labels(labels.path)] == ["a", "tie", "b"][: number + 1]
        form = urlencode({"id": ROWS[0]["id"], "label": "b", "token": _token(_ask(port)[1])})  # thought better of it
        assert _ask(port, "POST", "/label", form)[0] == 303
    with _served(tmp_path) as (labels, port):
        assert labels.done == 3 and "What is 3?" in _ask(port)[1]
        form = urlencode({"id": ROWS[3]["id"], "label": "a", "token": _token(_ask(port)[1])})
        code, _, headers = _ask(port, "POST", "/label", form)
        assert code == 303 and headers["Location"] == "/" and "All 4" in _ask(port)[1]
    pairs = labelled_pairs(read_labels(tmp_path / "labels.jsonl"))
    assert [(p["chosen"][:8], p["rejected"][:8]) for p in pairs] == [
        ("second 0", "first 0 "),
        ("second 2", "first 2 "),
        ("first 3 ", "second 3"),
    ]
    assert not list(tmp_path.glob(".*.tmp"))


def test_strangers_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with _served(tmp_path) as (labels, port):
        token = _token(_ask(port)[1])
        good = {"id": ROWS[0]["id"], "label": "a", "token": token}
        origin = f"http://127.0.0.1:{port}"
        refused = [
            (403, _ask(port, "POST", "/label", urlencode(good), Origin="http://evil.example")),
            (403, _ask(port, "POST", "/label", urlencode(good), Origin="null")),
            (403, _ask(port, "POST", "/label", urlencode(good), Host=f"evil.example:{port}")),
            (403, _ask(port, Host="evil.example")),
            (403, _ask(port, "POST", "/label", urlencode(good | {"token": "x"}), Origin=origin)),
            (403, _ask(port, "POST", "/label", urlencode({"id": ROWS[0]["id"], "label": "a"}), Origin=origin)),
            (400, _ask(port, "POST", "/label", urlencode(good | {"label": "both"}), Origin=origin)),
            (400, _ask(port, "POST", "/label", urlencode(good | {"id": "9"}), Origin=origin)),
            (413, _ask(port, "POST", "/label", "x" * 5000, Origin=origin)),
            (404, _ask(port, path="/labels.jsonl")),
            (501, _ask(port, "DELETE", "/")),
        ]
        assert [answer[0] for _, answer in refused] == [code for code, _ in refused]
        assert labels.done == 0 and not labels.path.exists()
        assert _ask(port, Host=f"localhost:{port}")[0] == 200


def test_answers_are_escaped_and_their_makers_are_not_told(tmp_path: Path) -> None:
    with _served(tmp_path) as (_, port):
        _, page, headers = _ask(port)
    assert "<script>document" not in page and "&lt;script&gt;" in page and HOSTILE not in page
    body = page[page.index("<body>") :]
    assert "sft" not in body and "late" not in body
    policy = headers["Content-Security-Policy"]
    nonce = re.findall(r"nonce-([^']+)'", policy)
    assert policy.startswith("default-src 'none'") and page.count(f'nonce="{nonce[0]}"') == page.count("<script") == 1
    assert {_sides(row) for row in ({"id": str(n)} for n in range(20))} == {("a", "b"), ("b", "a")}


@pytest.mark.process
def test_a_wrong_file_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(ROWS[0] | {"label": "maybe"}) + "\n")
    with pytest.raises(UserError, match="label"):
        Labels(path, ROWS)
    done = subprocess.run(
        [sys.executable, "jobs/label_answers.py", str(tmp_path / "none.jsonl")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "does not exist" in done.stderr.splitlines()[-1]


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_job_serves_until_it_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "comparisons.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = [sys.executable, "jobs/label_answers.py", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = int(re.findall(r"127\.0\.0\.1:(\d+)", process.stderr.readline())[0])
            form = urlencode({"id": ROWS[2]["id"], "label": "b", "token": _token(_ask(port)[1])})
            assert _ask(port, "POST", "/label", form)[0] == 303
            process.send_signal(number)
            out, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    summary = json.loads(out.splitlines()[-1])
    assert summary["status"] == "done" and summary["labelled"] == 1
    assert read_labels(tmp_path / "comparisons.labels.jsonl")[0]["id"] == ROWS[2]["id"]


@pytest.mark.process
@pytest.mark.skipif(BINARY is None, reason="Chromium is not installed: apt-get install chromium")
def test_a_person_labels_with_keys_and_on_a_phone(tmp_path: Path) -> None:
    asyncio.run(_label(tmp_path))


async def _label(tmp_path: Path) -> None:
    with _served(tmp_path) as (labels, port):
        async with Browser(tmp_path / "chromium") as tab:
            await _work_the_page(tab, labels, port)


async def _work_the_page(tab: Browser, labels: Labels, port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    await tab.open(url, 1200, 900)
    assert await tab.run("document.title") == "Label answers"
    left, right = [
        await tab.run(f"document.querySelectorAll('.sides .quoted')[{i}].getBoundingClientRect().left") for i in (0, 1)
    ]
    assert right > left + 200
    shown = await tab.run("document.querySelector('.sides .quoted').innerText")
    assert shown == str(ROWS[0][_sides(ROWS[0])[0]])
    keys = [("1", "Digit1", 49), ("ArrowRight", "ArrowRight", 39), ("2", "Digit2", 50)]
    for number, key in enumerate(keys, 1):
        await tab.press(*key)
        await tab.until(f"document.body.innerText.includes('What is {number}?')")
    expected = [_sides(ROWS[0])[0], _sides(ROWS[1])[1], "tie"]
    assert [row["label"] for row in read_labels(labels.path)] == expected
    await tab.press("Backspace", "Backspace", 8)
    await tab.until("document.body.innerText.includes('What is 2?')")
    assert await tab.run("document.querySelector('button.was').id") == "tie"
    # A phone: answers one above the other, nothing to scroll sideways, buttons big enough for a thumb.
    await tab.open(url, 380, 700)
    first, second = [
        await tab.run(f"document.querySelectorAll('.sides .quoted')[{i}].getBoundingClientRect().top") for i in (0, 1)
    ]
    assert second > first + 40
    assert await tab.run("document.documentElement.scrollWidth") <= 380
    assert await tab.run("Math.min(...[...document.querySelectorAll('button')].map(b => b.offsetHeight))") >= 40
    await tab.run("document.getElementById('second').click()")
    await tab.until("document.body.innerText.includes('All 4 comparisons')")
    assert labels.done == 4
    # Another origin cannot post, even with a form that a browser would send along.
    form = f"<form method=post action='http://127.0.0.1:{port}/label'><input name=id value=1-00000></form>"
    await tab.call("Page.navigate", url=f"data:text/html,{form}")
    await tab.until("document.forms.length == 1")
    await tab.run("document.forms[0].submit()")
    await tab.until("document.body.innerText.includes('answers only itself')")
