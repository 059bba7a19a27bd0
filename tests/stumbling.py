"""An S3 server (moto) that answers with errors, or late, while it is told to."""

import time
from collections.abc import Callable
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class Stumbling:
    """A WSGI server in front of moto: requests (method, path) that `fails` picks get a 503, after `silence_s`."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.silence_s = inner, 0.0
        self.fails: Callable[[str, str], bool] = never

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if not self.fails(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            return self.inner(environ, start)
        time.sleep(self.silence_s)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("503 Slow Down", [("Content-Length", "0")])
        return [b""]


def never(method: str, path: str) -> bool:
    """No request fails."""
    return False


def always(method: str, path: str) -> bool:
    """Every request fails."""
    return True
