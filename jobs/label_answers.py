"""Label answers on a small local web page, two at a time, for the next online round (report section 4.2.2).

    python jobs/label_answers.py FILE [--labels FILE.labels.jsonl] [--port 8731]

FILE: comparisons of a round, `<run>/rounds/N/patterns/comparisons.jsonl`. Each label is written at once into the labels
file, so stopping (Ctrl-C, SIGTERM) and going on loses nothing. A later round takes the labels as `online.labels=FILE`.
Only this machine reaches the page. Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import contextlib
import re
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from ilm_ray.alignment.online.labels import LABELS, read_comparisons, read_labels
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject, write_jsonl
from ilm_ray.report.label_page import done_page, policy, question_page
from jobs.frame.command import Parser, run_command

LONGEST_FORM = 4096  # bytes
READ_S = 10.0  # for which a browser may keep a request open


class Labels:
    """Comparisons and their labels; every label reaches the disk before it counts."""

    def __init__(self, path: Path, rows: Sequence[JsonObject]) -> None:
        self.path, self.rows = path, list(rows)
        self.numbers = {row["id"]: number for number, row in enumerate(self.rows)}
        known = read_labels(path) if path.exists() else []
        self.labelled_rows = {row["id"]: row for row in known}  # labels of other comparisons in the file stay in it
        self._lock = threading.Lock()

    def put(self, name: str, label: str) -> None:
        with self._lock:
            labelled_rows = self.labelled_rows | {name: self.rows[self.numbers[name]] | {"label": label}}
            write_jsonl(self.path, labelled_rows.values())
            self.labelled_rows = labelled_rows

    @property
    def done(self) -> int:
        return sum(row["id"] in self.labelled_rows for row in self.rows)

    def next(self, after: int = -1) -> int | None:
        """Number of the next comparison without a label, from the beginning again behind the last one."""
        order = [*range(after + 1, len(self.rows)), *range(after + 1)]
        return next((n for n in order if self.rows[n]["id"] not in self.labelled_rows), None)


def serve(labels: Labels, port: int) -> ThreadingHTTPServer:
    """A server on the loopback address that is ready to run; port 0: any free one."""
    token = secrets.token_urlsafe(24)

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_S
        server_version, sys_version = "labels", ""

        def do_GET(self) -> None:
            if not self._asked_here():
                return
            path, _, query = self.path.partition("?")
            if path != "/":
                self._answer(404, "no such page")
                return
            nonce, total = secrets.token_urlsafe(16), len(labels.rows)
            name = parse_qs(query).get("id", [""])[0]
            number = labels.numbers.get(name, labels.next())
            if number is None:
                last = _to(labels.rows[-1])
                self._page(done_page(total, str(labels.path), last, nonce), nonce)
                return
            row = labels.rows[number]
            links = {"back": _to(labels.rows[number - 1])} if number else {}
            following = labels.next(number)
            if following not in (None, number):
                links["skip"] = _to(labels.rows[following])
            label = labels.labelled_rows.get(row["id"], {}).get("label")
            page = question_page(row, _sides(row), label, (labels.done, total), links, token, nonce)
            self._page(page, nonce)

        def do_POST(self) -> None:
            if not self._asked_here():
                return
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch("[0-9]{1,9}", length) or int(length) > LONGEST_FORM:
                self._answer(413, "the form is too long or has no length")
                return
            form = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"))
            name, label, given = (form.get(key, [""])[0] for key in ("id", "label", "token"))
            if not secrets.compare_digest(given.encode(), token.encode()):
                self._answer(403, "the form is not of this page; load it again")
            elif name not in labels.numbers or label not in LABELS:
                self._answer(400, "no such comparison or label")
            else:
                labels.put(name, label)
                following = labels.next(labels.numbers[name])
                self.send_response(303)
                self.send_header("Location", "/" if following is None else _to(labels.rows[following]))
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _asked_here(self) -> bool:
            """Whether the request names this address, and no page of another origin sent it."""
            hosts = {f"{host}:{self.connection.getsockname()[1]}" for host in ("127.0.0.1", "localhost")}
            host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
            if host in hosts and (origin is None or origin == f"http://{host}"):
                return True
            self._answer(403, "this page answers only itself")
            return False

        def _page(self, page: str, nonce: str) -> None:
            self._answer(200, page, "text/html", {"Content-Security-Policy": policy(nonce)})

        def _answer(self, code: int, text: str, kind: str = "text/plain", more: dict[str, str] | None = None) -> None:
            body = text.encode()
            headers = {
                "Content-Type": f"{kind}; charset=utf-8",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "same-origin",
            }
            self.send_response(code)
            for name, value in (headers | (more or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror or error}; choose another") from None


def _to(row: JsonObject) -> str:
    return "/?" + urlencode({"id": row["id"]})


def _sides(row: JsonObject) -> tuple[str, str]:
    """Which answer comes first: drawn by the id, so that it stays when the page is loaded again."""
    return ("a", "b") if sha256(row["id"].encode()).digest()[0] % 2 else ("b", "a")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        parser = Parser(prog="jobs/label_answers.py", description="Label answers on a small web page.")
        parser.add_argument("file", type=Path, help="comparisons of a round")
        parser.add_argument("--labels", type=Path, help="where labels go (default: beside FILE)")
        parser.add_argument("--port", type=int, default=8731)
        arguments = parser.parse_args(argv)
        path = arguments.labels or arguments.file.with_suffix(".labels.jsonl")
        labels = Labels(path.absolute(), read_comparisons(arguments.file))
        for number in (signal.SIGINT, signal.SIGTERM):  # the former is ignored in what a script starts behind itself
            signal.signal(number, signal.default_int_handler)
        with serve(labels, arguments.port) as server:
            print(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends)", file=sys.stderr, flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
        summary |= {"comparisons": len(labels.rows), "labelled": labels.done, "labels": str(labels.path)}

    return run_command("label_answers", work)


if __name__ == "__main__":
    sys.exit(main())
