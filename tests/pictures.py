"""Take the pictures of README in a headless Chromium: report, chat page, Ray dashboard.

    python -m tests.pictures [RUN] [--chat URL] [--dashboard URL [--token FILE]]

RUN: a finished run folder, such as that of `make demo`. --chat: the address that `jobs/serve.py` prints. --dashboard:
that of a Ray dashboard while PPO runs; --token: the file of its token. Each picture goes into docs/images as a PNG of
256 colours, below 200 kB.
"""

import argparse
import asyncio
import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import Browser

OUT = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT = 1180, 820
LARGEST = 200_000  # bytes
QUESTION = "What is the capital of France?"


async def take(run: Path | None, chat: str | None, dashboard: str | None, token: Path | None) -> None:
    """Open the pages one after the other and write their pictures."""
    with tempfile.TemporaryDirectory() as profile:
        async with Browser(Path(profile)) as browser:
            await browser.call("Emulation.setScrollbarsHidden", hidden=True)
            for section in ("text", "ppo") if run is not None else ():
                assert run is not None
                await browser.open(f"file://{(run / 'report.html').absolute()}#{section}", WIDTH, HEIGHT)
                await shoot(browser, f"report_{section}")
            if chat is not None:
                await browser.open(chat, WIDTH, HEIGHT)
                await ask(browser)
                await shoot(browser, "chat")
            if dashboard is not None:
                if token is not None:
                    cookie = {"name": "ray-authentication-token", "value": token.read_text().strip(), "url": dashboard}
                    await browser.call("Network.setCookie", **cookie)
                await browser.open(f"{dashboard.rstrip('/')}/#/actors", 1560, HEIGHT)
                await browser.until("document.body.innerText.includes('policy-0')")
                await shoot(browser, "dashboard")


async def ask(browser: Browser) -> None:
    """Type a question into the chat page and wait for the whole answer."""
    await browser.run("document.querySelector('textarea').focus()")
    await browser.call("Input.insertText", text=QUESTION)
    await browser.press("Enter", "Enter", 13)
    await asyncio.sleep(8)


async def shoot(browser: Browser, name: str) -> None:
    """Write docs/images/<name>.png from the tab as it stands."""
    await asyncio.sleep(1)
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        await browser.picture(Path(folder) / "raw.png")
        with Image.open(Path(folder) / "raw.png") as raw:
            raw.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    if len(buffer.getvalue()) > LARGEST:
        raise SystemExit(f"{name} has {len(buffer.getvalue())} bytes, more than {LARGEST}")
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.png").write_bytes(buffer.getvalue())
    print(OUT / f"{name}.png", len(buffer.getvalue()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--chat")
    parser.add_argument("--dashboard")
    parser.add_argument("--token", type=Path)
    arguments = parser.parse_args()
    asyncio.run(take(arguments.run, arguments.chat, arguments.dashboard, arguments.token))
