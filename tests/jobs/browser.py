"""A headless Chromium over its own debugging protocol: enough to load a page, run script in it, press keys."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

START_S = 60.0
ANSWER_S = 30.0


class Browser:
    """One tab. Calls block; each has a deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number = loop, socket, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), ANSWER_S))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            answer = json.loads((await self._socket.receive()).data)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState == 'complete'")

    def until(self, script: str) -> None:
        """Wait until an expression is true in the page, whatever page that is by then."""

        async def wait() -> None:
            while True:
                found = await self._call("Runtime.evaluate", {"expression": script, "returnByValue": True})
                if found["result"].get("value"):
                    return
                await asyncio.sleep(0.02)

        self._loop.run_until_complete(asyncio.wait_for(wait(), ANSWER_S))

    def press(self, key: str, code: str, number: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number, **text)


@contextmanager
def browser(folder: Path, width: int = 1200, height: int = 900) -> Iterator[Browser]:
    """Skips the test where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed")
    profile = folder / "chromium"
    command = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--remote-debugging-port=0",
    ]
    command += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    session = aiohttp.ClientSession(loop=loop)
    try:
        socket = loop.run_until_complete(asyncio.wait_for(_attach(session, profile), START_S))
        tab = Browser(loop, socket)
        tab.call("Page.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        yield tab
    finally:
        loop.run_until_complete(session.close())
        process.kill()
        process.wait(10)
        loop.close()


async def _attach(session: aiohttp.ClientSession, profile: Path) -> aiohttp.ClientWebSocketResponse:
    while not (profile / "DevToolsActivePort").exists():
        await asyncio.sleep(0.05)
    port = (profile / "DevToolsActivePort").read_text().split()[0]
    async with session.get(f"http://127.0.0.1:{port}/json/list") as found:
        tabs = [tab for tab in await found.json() if tab["type"] == "page"]
    return await session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0)
