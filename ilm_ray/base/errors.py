"""The one exception a person is meant to read."""

import re

_BREAKS = re.compile("\\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\\s*")
_LONGEST = 2000  # characters


class UserError(Exception):
    """Bad input or configuration: one line that names the problem, its place and a remedy. A job exits with code 2.

    Messages quote names and values of strangers: line breaks become spaces, characters that a terminal does not show
    become their escapes, and a long line loses its middle.
    """

    def __init__(self, message: str) -> None:
        line = _BREAKS.sub(" ", message).strip()
        if not line.isprintable():
            line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        super().__init__(line if len(line) <= _LONGEST else f"{line[:1200]} ... {line[-700:]}")
