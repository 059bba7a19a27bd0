"""A file as the tokens that near-dedup and the model scorer see: how wide a level of indentation is does not matter.

The tokens of web text are words, so that operators would not count. Here every operator and every capital becomes a
letter that source code does not hold (runes), and so does every step of indentation in or out.
"""

import re

_IN, _OUT = " ᛝ ", " ᛟ "
_RUNES = [chr(point) for point in range(0x16A0, 0x16EB)]
_OPERATORS = "!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~"
_TABLE = {ord(o): f" {rune} " for o, rune in zip(_OPERATORS, _RUNES, strict=False)}  # 32 of the runes
# An underscore is part of a name, and `Name` is another one than `name`.
_TABLE[ord("_")] = "ᛪ"
_TABLE |= {ord(c): f"ᛩ{c.lower()}" for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_LEADING = re.compile(r"[ \t]*")
TAB = 8  # columns, where tabs and spaces are mixed


def canonical(text: str) -> str:
    """`text` with indentation as steps in and out, without blank lines and trailing spaces, in words only."""
    depths, lines = [0], []
    for line in text.split("\n"):
        line = line.rstrip()
        if not line:
            continue
        lead = _LEADING.match(line)[0]  # type: ignore[index]  # it may be empty but always matches
        column = len(lead.expandtabs(TAB))
        steps = ""
        while column < depths[-1]:
            depths.pop()
            steps += _OUT
        if column > depths[-1]:
            depths.append(column)
            steps += _IN
        lines.append(steps + line[len(lead) :])
    return "\n".join(lines).translate(_TABLE)
