"""Secrets in a text: tokens with a form of their own, and values that are assigned to names such as `password`.

Forms are those that the services document and that scanners (detect-secrets, gitleaks) look for. Every pattern begins
with fixed characters and repeats at most a bounded number of them, so that no text takes more than linear time.
"""

import math
import re
from collections import Counter
from collections.abc import Callable

from detect_secrets.plugins import (
    aws,
    azure_storage_key,
    basic_auth,
    discord,
    mailchimp,
    sendgrid,
    slack,
    square_oauth,
    telegram_token,
    twilio,
)  # fmt: skip

SECRET = "<secret>"
# Characters that a form begins with -> its rest. A longer run than a service gives out today is masked as a whole.
_FORMS = {
    # code and packages
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), r"\w{22,255}"),
    **dict.fromkeys(
        ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "glcbt-", "glimt-", "glptt-", "glagent-", "gloas-", "glffct-"),
        r"[\w-]{20,300}(?:\.\w{2}\.\w{7,9})?",
    ),
    "GR1348941": r"[\w-]{20,50}",
    "npm_": r"[A-Za-z0-9]{36,100}",
    "pypi-AgE": r"[\w-]{50,400}",
    "rubygems_": r"[0-9a-f]{48,100}",
    "dckr_pat_": r"[\w-]{27,100}",
    "ATATT3": r"[\w=-]{100,300}",
    "PMAK-": r"[0-9a-f]{24}-[0-9a-f]{34}",
    "figd_": r"[\w-]{40,100}",
    "lin_api_": r"[A-Za-z0-9]{40,100}",
    "ntn_": r"[A-Za-z0-9]{40,100}",
    # clouds
    **dict.fromkeys(("AKIA", "ASIA", "ABIA", "ACCA"), r"[A-Z0-9]{16,128}"),
    "AIza": r"[\w-]{35,100}",
    "GOCSPX-": r"[\w-]{28,100}",
    "ya29.": r"[\w-]{20,400}",
    "LTAI": r"[A-Za-z0-9]{12,60}",
    "AKID": r"[A-Za-z0-9]{32,60}",
    **dict.fromkeys(("dop_v1_", "doo_v1_", "dor_v1_"), r"[0-9a-f]{64,100}"),
    "dapi": r"[0-9a-f]{32,60}",
    "HRKU-": r"[\w-]{36,100}",
    "sbp_": r"[0-9a-f]{40,100}",
    "pscale_": r"(?:tkn|pw|oauth)_[\w.=-]{32,100}",
    **dict.fromkeys(("hvs.", "hvb."), r"[\w-]{24,300}"),
    "AGE-SECRET-KEY-1": r"[A-Z0-9]{58,80}",
    # models
    "sk-": r"(?:ant-|proj-|svcacct-|admin-|or-v1-)[\w-]{20,300}|[\w-]{20,100}T3BlbkFJ[\w-]{20,100}|\w{32,100}",
    "hf_": r"[A-Za-z0-9]{30,60}",
    "api_org_": r"[A-Za-z0-9]{30,60}",
    "gsk_": r"[A-Za-z0-9]{48,100}",
    "r8_": r"[A-Za-z0-9]{37,60}",
    "pplx-": r"[A-Za-z0-9]{40,100}",
    "xai-": r"[A-Za-z0-9]{60,120}",
    # messages, payments, watching
    "xapp-": r"\d-[\w-]{10,200}",
    **dict.fromkeys(("sk_live_", "rk_live_", "sk_test_", "rk_test_"), r"[0-9A-Za-z]{16,255}"),
    "whsec_": r"[A-Za-z0-9+/=]{32,100}",
    **dict.fromkeys(("shpat_", "shpca_", "shppa_", "shpss_"), r"[0-9A-Fa-f]{32,60}"),
    "xkeysib-": r"[0-9a-f]{64}-\w{16}",
    "key-": r"[0-9a-f]{32}(?![0-9a-f])",
    "NRAK-": r"[A-Z0-9]{27,60}",
    "glsa_": r"[A-Za-z0-9]{32}_[0-9A-Fa-f]{8}",
    "glc_": r"[A-Za-z0-9+/=]{32,400}",
    **dict.fromkeys(("sntrys_", "sntryu_"), r"[\w=+/]{40,400}"),
    "eyJ": r"[\w=-]{8,2000}\.[\w=-]{8,4000}(?:\.[\w.+/=-]{0,2000})?",  # a JSON web token
}  # fmt: skip
_TOKENS = [(start, re.compile(rf"(?<![A-Za-z0-9]){re.escape(start)}(?:{rest})")) for start, rest in _FORMS.items()]
# The library's, of forms that begin with nothing of their own. Its words-and-entropy plugins are left out: they take
# hashes and test data for secrets.
_WHOLE = tuple(
    pattern
    for plugin in (
        azure_storage_key.AzureStorageKeyDetector, discord.DiscordBotTokenDetector, mailchimp.MailchimpDetector,
        sendgrid.SendGridDetector, slack.SlackDetector, square_oauth.SquareOAuthDetector,
        telegram_token.TelegramBotTokenDetector, twilio.TwilioKeyDetector,
    )
    for pattern in plugin.denylist
)  # fmt: skip
# Their only group is the secret; what stands around it stays.
_GROUP = (
    *(pattern for pattern in aws.AWSKeyDetector.denylist if pattern.groups),
    *basic_auth.BasicAuthDetector.denylist,
    re.compile(r":_authToken=\s{0,3}([A-Fa-f0-9-]{36})"),
)
_KEY_NAME = "[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_KEY = re.compile(rf"(-----BEGIN {_KEY_NAME})(?!\s*<secret>).{{1,20000}}?(-----END {_KEY_NAME})", re.S)

_NAME = r"(?i:secret|token|passwd|password|\bpwd|api_?key|access_?key|private_?key|account_?key|credential)\w{0,20}"
_SIGN = r"[\"']?[ \t]{0,3}(?:=>|:=|=|:)[ \t]{0,3}"
_QUOTED = re.compile(rf"{_NAME}{_SIGN}[\"']([A-Za-z0-9+/_.~=-]{{16,200}})[\"']")
# In .env files, YAML and connection strings nothing stands around a value. There it could be a name as well.
_BARE = re.compile(rf"{_NAME}{_SIGN}([A-Za-z0-9+/_~=-]{{12,200}})(?=[\s;,&]|\Z)")
_BITS = 3.5  # a character; words and names joined by dots and dashes lie below
_SHARE = 0.9  # of the bits that a value of so many characters can have, for short ones
_DIGIT_RUNS = 2  # Sha256Provider has one


def mask_secrets(text: str) -> tuple[str, int]:
    """The text with `<secret>` in place of each secret, and their number. Running it again changes nothing."""
    count = 0

    def whole(match: re.Match[str]) -> str:
        nonlocal count
        if SECRET in match[0]:
            return match[0]
        count += 1
        return SECRET

    def group(match: re.Match[str]) -> str:
        nonlocal count
        if SECRET in match[0]:
            return match[0]
        count += 1
        start, end = (place - match.start() for place in match.span(1))
        return f"{match[0][:start]}{SECRET}{match[0][end:]}"

    def key(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"{match[1]}\n{SECRET}\n{match[2]}"

    def assigned(drawn: Callable[[str], bool]) -> Callable[[re.Match[str]], str]:
        return lambda match: group(match) if drawn(match[1]) else match[0]

    text = _PRIVATE_KEY.sub(key, text)
    for start, pattern in _TOKENS:
        if start in text:  # a hundred times faster than the pattern, which seldom has anything to find
            text = pattern.sub(whole, text)
    for pattern in _WHOLE:
        text = pattern.sub(whole, text)
    for pattern in _GROUP:
        text = pattern.sub(group, text)
    text = _QUOTED.sub(assigned(_is_drawn), text)
    text = _BARE.sub(assigned(lambda value: _is_drawn(value) and not _is_name(value)), text)
    return text, count


def entropy(value: str) -> float:
    """Shannon entropy in bits a character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _is_drawn(value: str) -> bool:
    """Whether a value looks drawn at random: digits and letters, and hardly a character twice."""
    enough = entropy(value) >= min(_BITS, _SHARE * math.log2(len(value)))
    return enough and bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value))


def _is_name(value: str) -> bool:
    """Whether a value that looks drawn may still be the name of a variable, a class or a path."""
    runs = len(re.findall(r"\d+", value))
    mixed = bool(re.search("[a-z]", value) and re.search("[A-Z]", value))
    return value.count("/") > 2 or runs < _DIGIT_RUNS + (not mixed)
