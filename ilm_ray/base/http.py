"""Ask servers over HTTP: a failure that may pass is tried again, and no proxy stands before this machine's own servers.

Tried again are answers that say "later" (408, 425, 429, 5xx; with the pause that Retry-After names), bodies that were
cut or are no JSON, and connections that fail. Any other answer of 4xx is a refusal.
"""

import contextlib
import email.utils
import http.client
import ipaddress
import json
import math
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

ATTEMPTS = 4
PAUSE_S = 2.0  # before the second attempt, twice as long before each further one
LONGEST_PAUSE_S = 120.0  # that a server may ask for
LARGEST = 1 << 26  # bytes of an answer
_LATER = frozenset({408, 425, 429})
_SHOWN = 2000  # bytes of a refusal


class HttpError(RuntimeError):
    """No answer that is of use; the message says why. status: of the last answer; None: there was none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def post_json(
    url: str,
    body: Any,
    timeout_s: float,
    key: str | None = None,
    within_s: float = math.inf,
    largest: int = LARGEST,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """The JSON that answers a posted `body`. timeout_s: of each attempt; within_s: of all attempts and pauses; key:
    sent as the bearer, and in no message.

    Raises HttpError after ATTEMPTS attempts, for a refusal at once.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    why, status, wait = "", None, None
    until = time.monotonic() + within_s
    for attempt in range(ATTEMPTS):
        if attempt:
            pause = pause_s(attempt, wait)
            if time.monotonic() + pause >= until:
                break
            sleep(pause)
        status, wait = None, None
        try:
            with opened(request, min(timeout_s, until - time.monotonic())) as answer:
                return json.loads(answer.read(largest))
        except urllib.error.HTTPError as error:
            status, wait = error.code, error.headers.get("Retry-After")
            with contextlib.suppress(OSError, http.client.HTTPException), error:
                why = error.read(_SHOWN).decode("utf-8", "replace")
            why = f"answered {status}: {why.replace(key, '***') if key else why}"
            if not comes_later(status):
                break
        except (OSError, http.client.HTTPException) as error:
            why = f"did not answer ({type(error).__name__}: {error})"
        except ValueError as error:
            why = f"answered what is no JSON, or cut ({error})"
    raise HttpError(f"{url} {why}", status)


def opened(request: urllib.request.Request | str, timeout_s: float) -> Any:
    """`urllib.request.urlopen`, past any proxy of the environment where the server is on this machine."""
    url = request if isinstance(request, str) else request.full_url
    proxies = [urllib.request.ProxyHandler({})] if is_here(url) else []
    return urllib.request.build_opener(*proxies).open(request, timeout=timeout_s)


def is_here(url: str) -> bool:
    """Whether the host of `url` is this machine: one of its addresses, or a name of one."""
    host = urllib.parse.urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return True
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return bool(addresses) and all(_is_ours(family, address) for family, _, _, _, address in addresses)


def comes_later(status: int) -> bool:
    """Whether another attempt may do where this status was the answer."""
    return status in _LATER or status >= 500


def pause_s(attempt: int, retry_after: str | None, now: Callable[[], float] = time.time) -> float:
    """Seconds before attempt `attempt` (the first is 0): the server's wish where it has one, bounded, else growing."""
    own = PAUSE_S * 2 ** (attempt - 1)
    if retry_after is None:
        return own
    try:
        wished = float(retry_after)
    except ValueError:
        try:
            wished = email.utils.parsedate_to_datetime(retry_after).timestamp() - now()
        except (ValueError, OverflowError):
            return own
    return min(max(wished, 0.0), LONGEST_PAUSE_S) if wished == wished else own


def _is_ours(family: int, address: Any) -> bool:
    """An address can be bound on the machine that has it alone."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True
