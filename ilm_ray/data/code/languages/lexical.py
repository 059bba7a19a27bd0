"""Comments and strings of source text, told from code by one regular expression a family of languages.

Not a lexer: nested comments end at the first end mark, quotes inside an interpolated expression count as quotes, and a
here document has at most 500 lines. A string or comment that is never closed reaches to the end of its line or of the
text, so that time stays linear.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_DOUBLE = r'"(?:[^"\\\n]++|\\[\s\S])*+(?:"|(?=\n)|\\?\Z)'
_SINGLE = r"'(?:[^'\\\n]++|\\[\s\S])*+(?:'|(?=\n)|\\?\Z)"
_DOUBLE_LINES = r'"(?:[^"\\]++|\\[\s\S])*+(?:"|\\?\Z)'
_SINGLE_LINES = r"'(?:[^'\\]++|\\[\s\S])*+(?:'|\\?\Z)"
_TRIPLE = r'"""(?:[^"\\]++|\\[\s\S]|"(?!""))*+(?:"""|\\?\Z)'
_TRIPLE_SINGLE = r"'''(?:[^'\\]++|\\[\s\S]|'(?!''))*+(?:'''|\\?\Z)"
_CHARACTER = r"'(?:\\[^\n'][^'\n]{0,9}|\\'|[^'\\\n])'"  # one character: a lifetime or a digit separator is none
_BLOCK = r"/\*[\s\S]*?(?:\*/|\Z)"
_LINE = r"//(?:[^\\\n]|\\[^\n])*"
_HASH = r"#[^\n]*"


def _syntax(comments: str, strings: str) -> re.Pattern[str]:
    return re.compile(f"(?P<comment>{comments})|(?P<string>{strings})", re.MULTILINE)


PYTHON = _syntax(_HASH, f"{_TRIPLE}|{_TRIPLE_SINGLE}|{_DOUBLE}|{_SINGLE}")
C = _syntax(
    rf"{_BLOCK}|//(?:[^\\\n]|\\[\s\S])*",
    rf'\bu?8?R"(?P<mark>[^\s()\\]{0, 16})\([\s\S]*?(?:\)(?P=mark)"|\Z)|{_DOUBLE}|{_CHARACTER}',
)
JVM = _syntax(f"{_BLOCK}|{_LINE}", f"{_TRIPLE}|{_DOUBLE}|{_CHARACTER}")
CSHARP = _syntax(
    f"{_BLOCK}|{_LINE}", rf'(?<!\$)\$*+"""[\s\S]*?(?:"""|\Z)|(?:\$@|@\$?)"(?:[^"]|"")*"|{_DOUBLE}|{_CHARACTER}'
)
SWIFT = _syntax(f"{_BLOCK}|{_LINE}", rf'(?<!\#)(?P<mark>\#{{1,20}}+)"[\s\S]*?(?:"(?P=mark)|\Z)|{_TRIPLE}|{_DOUBLE}')
GO = _syntax(f"{_BLOCK}|{_LINE}", f"`[^`]*`|{_DOUBLE}|{_CHARACTER}")
RUST = _syntax(f"{_BLOCK}|{_LINE}", rf'\bb?r(?P<mark>\#*)"[\s\S]*?(?:"(?P=mark)|\Z)|{_DOUBLE_LINES}|{_CHARACTER}')
JAVASCRIPT = _syntax(
    f"{_BLOCK}|{_LINE}",
    # A slash after one of these signs or at the start of a line begins a regular expression, not a division. Both are
    # bounded and give nothing back: each of many slashes could else look through the rest of a long line, often.
    rf"`(?:[^`\\]++|\\[\s\S])*+(?:`|\\?\Z)|{_DOUBLE}|{_SINGLE}"
    r"|(?:^|[(,=:\[!&|?{};])[ \t]*/(?![*/])(?:[^/\\\[\n]|\\[^\n]|\[(?:[^\]\\\n]|\\[^\n]){0,200}+\]){1,1000}+/",
)
RUBY = _syntax(
    rf"^=begin\b[\s\S]*?(?:^=end\b|\Z)|^__END__[\s\S]*|(?<![\w$]){_HASH}",
    rf"<<[~-]?(?P<quote>['\"]?)(?P<mark>[A-Z_]\w{{0,60}})(?P=quote)[^\n]{{0,500}}+\n"
    r"(?:[^\n]*\n){0,500}?[ \t]*(?P=mark)$"
    rf"|{_DOUBLE}|{_SINGLE}",
)
PHP = _syntax(
    # What lies outside the tags is HTML, which counts as a comment; so does the rest of a line up to a closing tag.
    rf"\A(?!<\?)[\s\S]*?(?:<\?(?:php|=)?|\Z)|\?>[\s\S]*?(?:<\?(?:php|=)?|\Z)|{_BLOCK}"
    r"|(?://|\#(?!\[))(?:(?!\?>)[^\n])*",
    rf"<<<[ \t]*['\"]?(?P<mark>\w{{1,60}})['\"]?\n(?:[^\n]*\n){{0,500}}?[ \t]*(?P=mark)\b"
    rf"|{_DOUBLE_LINES}|{_SINGLE_LINES}",
)


class Code(NamedTuple):
    """The text without comments, and without the contents of strings too; spaces stand for the omitted text.

    All three have the same offsets and lines.
    """

    text: str
    bare: str

    def find(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """Matches in the text that begin outside of strings, leading white space aside."""
        for match in pattern.finditer(self.text):
            start = match.start() + len(match[0]) - len(match[0].lstrip())
            if match[0].strip() and self.bare[start] == self.text[start]:
                yield match


def code_of(text: str, syntax: re.Pattern[str]) -> Code:
    """Blank out comments and strings."""
    kept, bare, at = list[str](), list[str](), 0
    for token in syntax.finditer(text):
        between, blank = text[at : token.start()], _blank(token[0])
        at = token.end()
        kept += (between, token[0] if token.lastgroup == "string" else blank)
        bare += (between, blank)
    return Code("".join((*kept, text[at:])), "".join((*bare, text[at:])))


def _blank(text: str) -> str:
    return "\n".join(" " * len(line) for line in text.split("\n"))
