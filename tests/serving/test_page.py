"""The page's files as they are sent, and what the job says of wrong input; no server, no browser."""

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.serving.folder import servable
from ilm_ray.serving.page import ChatPage
from jobs.serve import main


def fetched(path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """The middleware's response for a path; the application behind it answers 404."""
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"behind"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    asyncio.run(ChatPage(behind)({"type": "http", "method": method, "path": path}, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"].decode()


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.wanted, self.inline, self.stack = list[str](), list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.wanted.append(str(value))
            if name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in ("script", "style") and data.strip():
            self.inline.append(data)


def test_all_that_the_page_asks_for_is_its_own_and_nothing_is_inline() -> None:
    status, _, html = fetched("/")
    parsed = Parsed(html)
    assert status == 200 and parsed.inline == []  # its own policy would refuse what is inline
    assert parsed.wanted and all(fetched(f"/{name}")[0] == 200 for name in parsed.wanted)
    for name in ("/", *(f"/{name}" for name in parsed.wanted)):
        _, headers, body = fetched(name)
        assert "default-src 'none'" in headers["content-security-policy"] and int(headers["content-length"]) == len(
            body.encode()
        )
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", body), name


def test_everything_else_is_the_servers() -> None:
    assert fetched("/v1/models")[0] == fetched("/../folder.py")[0] == fetched("/", "POST")[0] == 404
    assert fetched("/", "HEAD")[::2] == (200, "")


def test_wrong_settings_are_refused_with_the_nearest_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "serve.port=70000": "setting 'serve.port'",
        "port=1": "did you mean 'serve.port'",
        "serve.prt=1": "did you mean 'serve.port'",
        "serve.port": "write key.sub=value",
        "serve.dtype=int4": "serve.dtype",
        "serve.host=": "write key.sub=value",
        "serve.gpus=1": "serve.model is not set",
    }
    for word, line in wrong.items():
        assert main([word]) == 2
        assert line in capsys.readouterr().err
    assert main([f"serve.model={tmp_path}"]) == 2 and "is no model" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        servable(tmp_path, tmp_path / "out", "fp32")
