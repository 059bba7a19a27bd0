"""Secrets, e-mail addresses and network addresses give way to placeholders."""

import ipaddress
import math
import re
from collections import Counter
from typing import NamedTuple

from detect_secrets.plugins import (
    aws,
    azure_storage_key,
    basic_auth,
    discord,
    github_token,
    gitlab_token,
    mailchimp,
    openai,
    pypi_token,
    sendgrid,
    slack,
    square_oauth,
    stripe,
    telegram_token,
    twilio,
)  # fmt: skip

EMAIL, IP, SECRET = "<email>", "<ip>", "<secret>"

# Only what has a form of its own: the library's words-and-entropy plugins take hashes and test data for secrets.
_PLUGINS = (
    aws.AWSKeyDetector, azure_storage_key.AzureStorageKeyDetector, basic_auth.BasicAuthDetector,
    discord.DiscordBotTokenDetector, github_token.GitHubTokenDetector, gitlab_token.GitLabTokenDetector,
    mailchimp.MailchimpDetector, openai.OpenAIDetector,
    pypi_token.PypiTokenDetector, sendgrid.SendGridDetector, slack.SlackDetector, square_oauth.SquareOAuthDetector,
    stripe.StripeDetector, telegram_token.TelegramBotTokenDetector, twilio.TwilioKeyDetector,
)  # fmt: skip
# The library's own patterns of these take quadratic time on lines that a stranger can write.
_JWT = re.compile(r"(?<![\w=-])eyJ[\w=-]{8,}\.[\w=-]{8,}(?:\.[\w.+/=-]*)?")
_NPM = re.compile(r":_authToken=\s{0,3}(npm_\w+|[A-Fa-f0-9-]{36})")
_KNOWN = (*(pattern for plugin in _PLUGINS for pattern in plugin.denylist), _JWT, _NPM)
_KEY_NAME = "[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_KEY = re.compile(rf"(-----BEGIN {_KEY_NAME})(?!\s*<secret>).{{1,20000}}?(-----END {_KEY_NAME})", re.S)
_ASSIGNED = re.compile(
    r"(?i:secret|token|passwd|password|api_?key|access_?key|private_?key|credential)\w{0,20}[\"']?\s{0,3}(?:=|:|=>|:=)\s{0,3}"
    r"[\"']([A-Za-z0-9+/_.~=-]{16,200})[\"']"
)
_ASSIGNED_BITS = 3.5  # a character; words and names joined by dots and dashes lie below
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
    """Replace what names or opens something. Running it again changes nothing."""
    counts = Counter[str]()
    text = _PRIVATE_KEY.sub(lambda m: _counted(counts, SECRET, f"{m[1]}\n{SECRET}\n{m[2]}"), text)
    for pattern in _KNOWN:
        text = pattern.sub(lambda m: _known(m, counts), text)
    text = _ASSIGNED.sub(lambda m: _assigned(m, counts), text)
    text = _EMAIL.sub(lambda m: m[0] if _no_person(m[0]) else _counted(counts, EMAIL, EMAIL), text)
    text = _IPV4.sub(lambda m: _counted(counts, IP, IP) if _is_address(m) else m[0], text)
    text = _IPV6.sub(lambda m: _counted(counts, IP, IP) if ipaddress.ip_address(m[0]).is_global else m[0], text)
    return Masked(text, counts[EMAIL], counts[IP], counts[SECRET])


def entropy(value: str) -> float:
    """Shannon entropy in bits a character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _counted(counts: Counter[str], kind: str, replacement: str) -> str:
    counts[kind] += 1
    return replacement


def _known(match: re.Match[str], counts: Counter[str]) -> str:
    return match[0] if SECRET in match[0] else _counted(counts, SECRET, _without_secret(match))


def _without_secret(match: re.Match[str]) -> str:
    """The match with its last group, or all of it, masked."""
    group = next((g for g in range(match.re.groups, 0, -1) if match[g]), 0)
    start, end = (place - match.start() for place in match.span(group))
    return f"{match[0][:start]}{SECRET}{match[0][end:]}"


def _assigned(match: re.Match[str], counts: Counter[str]) -> str:
    value = match[1]
    if entropy(value) < _ASSIGNED_BITS or not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value):
        return match[0]
    return _counted(counts, SECRET, _without_secret(match))


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
