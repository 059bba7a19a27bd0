"""An OpenAI-compatible endpoint whose answers are rules."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int  # the content of an answer, or an HTTP status of failure


@contextmanager
def answering(reply: Callable[[list[dict[str, Any]]], Reply]) -> Iterator[str]:
    """The base of its API. reply: is given the messages of a request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"])
            body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(said if isinstance(said, int) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join(10)
