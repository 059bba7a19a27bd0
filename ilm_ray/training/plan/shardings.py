"""Which of the 27 ways to share out parameters, gradients and optimizer states can be had, and why not the others."""

import itertools
import textwrap
from typing import get_args

from ilm_ray.config.layout import Share

SHARES: tuple[Share, ...] = get_args(Share)
REASONS = {
    "a": "a parameter would be split further than its optimizer state: a rank would hold states of weights that it has "
    "to fetch and to give away again, for more memory and more messages than with the state split as far",
    "b": "a gradient would be split further than the optimizer state that reads it: it would have to be gathered again",
    "c": "a gradient would be split, but less than its optimizer state: FSDP2 reduces to the state's own share; whole "
    "gradients until the last micro-batch save messages instead, or shares of all micro-batches memory",
}


def refusal(parameters: Share, gradients: Share, optimizer: Share) -> str | None:
    """The key in REASONS of why `Layout` refuses these shares, None where it accepts them."""
    order = SHARES.index
    if order(parameters) > order(optimizer):
        return "a"
    if gradients in ("replica", optimizer):
        return None
    return "b" if order(gradients) > order(optimizer) else "c"


def sharding_table() -> str:
    """Markdown for docs/plans.md: a row for parameters and optimizer states, a column for gradients."""
    columns = " | ".join(f"gradients {share}" for share in SHARES)
    lines = [
        "InternEvo shares each of the three states out in one of three ways. Of the 27 combinations these are accepted",
        "(`yes`); the others are refused, for a reason below. A pipeline keeps whole gradients.",
        "",
        f"| parameters, optimizer states | {columns} |",
        "|---" * (1 + len(SHARES)) + "|",
    ]
    for parameters, optimizer in itertools.product(SHARES, repeat=2):
        cells = " | ".join(refusal(parameters, gradients, optimizer) or "yes" for gradients in SHARES)
        lines.append(f"| {parameters}, {optimizer} | {cells} |")
    lines.append("")
    for key, reason in REASONS.items():
        lines += textwrap.wrap(f"- {key}: {reason}.", 118, subsequent_indent="  ")
    return "\n".join(lines) + "\n"
