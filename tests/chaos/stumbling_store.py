"""An S3 (moto) that answers with errors, or not at all, while it is told to."""

import time
import urllib.request
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
SILENCE_S = 20.0


class StumblingStore:
    """A WSGI server in front of moto, with one bucket. address: of this machine, as its users see it."""

    def __init__(self, address: str) -> None:
        self._kind: str | None = None
        self._moto = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
        self._moto.start()
        self._inner = self._moto._server.app
        self._moto._server.app = self
        host, port = self._moto.get_host_and_port()
        self.url, self.bucket = f"http://{host}:{port}", "s3://chaos"
        urllib.request.urlopen(f"{self.url}/moto-api/reset", data=b"").close()  # all servers share one state
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=self.url, **keys).create_bucket(Bucket="chaos")

    def fail(self, kind: str) -> None:
        """errors: 503 at once; silence: after a while."""
        self._kind = kind

    def mend(self) -> None:
        self._kind = None

    def close(self) -> None:
        self._moto.stop()

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if self._kind is None:
            return self._inner(environ, start)
        if self._kind == "silence":
            time.sleep(SILENCE_S)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("503 Slow Down", [("Content-Length", "0")])
        return [b""]
