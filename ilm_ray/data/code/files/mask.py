"""Secrets, e-mail addresses and network addresses give way to placeholders."""

import ipaddress
import re
from collections import Counter
from typing import NamedTuple

from ilm_ray.data.code.files.secrets import mask_secrets

EMAIL, IP = "<email>", "<ip>"

# Known endings only: `weights@x.shape` is a matrix product, not an address.
_EMAIL = re.compile(
    r"(?<![\w.+/:-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+(?:com|org|net|edu|gov|mil|info|biz|io|dev|ai|app|me|eu|uk|de|fr|nl|it|es|se|no"
    r"|dk|fi|pl|pt|ch|at|be|cz|sk|hu|ro|gr|ie|ru|ua|cn|jp|kr|tw|hk|sg|in|br|ar|mx|cl|au|ca|us|nz|za|tr|il|ir)\b(?![\w/-])"
)
_RESERVED = re.compile(r"@(?:[\w-]+\.)*(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost)$", re.I)  # RFC 2606
_SERVICES = re.compile(r"^(?:git|hg|svn|noreply|no-reply)@|@users\.noreply\.github\.com$", re.I)  # nobody's address
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}(?![\w:])")
_VERSION = re.compile(
    r"(?:version|release|revision|build|\bver|\bv|[=<>~^!]=|since|upgrade[sd]?|\bto|\bfrom)\W{0,4}$", re.I
)
_CONTEXT = 24  # characters before a number that may call it a version
_SMALL, _FEWEST_LARGE = 20, 2  # 8.2.4.44 is a section or a version; of real addresses 1 in 400 has such numbers
_RESOLVERS = frozenset({"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"})  # public services, in every tutorial


class Masked(NamedTuple):
    """A text and how many placeholders went in."""

    text: str
    emails: int
    ips: int
    secrets: int


def mask(text: str) -> Masked:
    """Replace names, addresses and secrets. Running it again changes nothing."""
    counts = Counter[str]()
    text, secrets = mask_secrets(text)
    text = _EMAIL.sub(lambda m: m[0] if _no_person(m[0]) else _counted(counts, EMAIL, EMAIL), text)
    text = _IPV4.sub(lambda m: _counted(counts, IP, IP) if _is_address(m) else m[0], text)
    text = _IPV6.sub(lambda m: _counted(counts, IP, IP) if ipaddress.ip_address(m[0]).is_global else m[0], text)
    return Masked(text, counts[EMAIL], counts[IP], secrets)


def _counted(counts: Counter[str], kind: str, replacement: str) -> str:
    counts[kind] += 1
    return replacement


def _no_person(address: str) -> bool:
    return bool(_RESERVED.search(address) or _SERVICES.search(address))


def _is_address(match: re.Match[str]) -> bool:
    """A public IPv4 address rather than a version number."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:  # a number above 255, or a leading zero
        return False
    if not address.is_global or address.is_multicast or match[0] in _RESOLVERS:
        return False
    if sum(int(number) >= _SMALL for number in match[0].split(".")) < _FEWEST_LARGE:
        return False
    return _VERSION.search(match.string[max(0, match.start() - _CONTEXT) : match.start()]) is None
