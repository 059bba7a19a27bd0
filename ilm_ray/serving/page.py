"""The chat page: three files of the package, and headers that forbid every other source.

There is no build step. The policy allows scripts, styles and connections of the server itself and nothing more, so that
even a mistake in the page could not turn a model's words into code.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import resources
from typing import Any

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_FILES = {
    "/": ("chat.html", "text/html; charset=utf-8"),
    "/chat.css": ("chat.css", "text/css; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def page(path: str) -> tuple[bytes, dict[str, str]] | None:
    """Body and headers of the page's file at a path; None where there is none."""
    if path not in _FILES:
        return None
    name, kind = _FILES[path]
    body = resources.files("ilm_ray.serving").joinpath(name).read_bytes()
    return body, {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}


class ChatPage:
    """ASGI middleware that answers for the page and leaves all else to the application behind it."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = page(scope["path"]) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        if content is None:
            await self.app(scope, receive, send)
            return
        body, headers = content
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": lines})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
