"""A headless Chromium, driven over its DevTools protocol: open a page, run a script in it, take pictures."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
)  # fmt: skip
DEADLINE_S = 60.0


class Browser:
    """One tab. `problems` holds what the page's console said that is an error, and scripts' exceptions."""

    def __init__(self, profile: Path) -> None:
        assert BINARY is not None
        self.profile, self.number, self.problems = profile, 0, list[str]()
        self.process = subprocess.Popen([BINARY, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    async def __aenter__(self) -> "Browser":
        until = time.monotonic() + DEADLINE_S
        port_file = self.profile / "DevToolsActivePort"
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert time.monotonic() < until and self.process.poll() is None, "Chromium did not start"
            time.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            tab = next(t for t in await answer.json() if t["type"] == "page")
        self.socket = await self.session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.session.close()
        self.process.terminate()
        self.process.wait()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=DEADLINE_S)
            if message.get("id") == self.number:
                assert "error" not in message, message
                return dict(message["result"])
            if message.get("method") == "Runtime.exceptionThrown" or (
                message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error"
            ):
                self.problems.append(json.dumps(message["params"]))

    async def run(self, script: str) -> Any:
        """The value of a script (JSON); a promise is waited for."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)  # fmt: skip # noqa: E501
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str, deadline_s: float = DEADLINE_S) -> Any:
        """Wait until a script's value is true, whatever page is there by then."""
        end = time.monotonic() + deadline_s
        while True:
            reply = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
            if value := reply["result"].get("value"):
                return value
            assert time.monotonic() < end, f"never true: {script}"
            await asyncio.sleep(0.05)

    async def open(self, url: str, width: int, height: int, dark: bool = False) -> None:
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)  # fmt: skip # noqa: E501
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    async def press(self, key: str, code: str, number: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number, **text
            )

    async def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot"))["data"]))
