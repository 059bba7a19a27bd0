"""Mathematical expressions, plain or in LaTeX, as sympy's: read by a parser of our own, for sympy's runs its input.

No input can make anything here compute for long: length, depth, exponents and factorials are bounded. An input beyond a
bound, or that is no expression, gives None.
"""

import re
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sympy

MOST_CHARS = 300
MOST_DEPTH = 40
MOST_POWER, MOST_DIGITS = 64, 60  # of an exponent that is a number; of a number that is raised to a power
_TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+|\\[a-zA-Z]+|[a-zA-Z]+|\*\*|[-+*/^(){}\[\]!%=_]")
_NOISE = re.compile(r"\\(?:left|right|displaystyle|,|;|!|:| )|\\\$|\$|\\text\{[^{}]*\}|\\mathrm\{[^{}]*\}|\\?°|\s+")
_FUNCTIONS = ("sin", "cos", "tan", "exp", "log", "ln", "sqrt")
_TIMES, _OVER = ("*", "\\cdot", "\\times"), ("/", "\\div")
_OPENS = {"(": ")", "{": "}", "[": "]"}


class _NoExpression(ValueError):
    pass


def parse_expression(text: str) -> "sympy.Expr | None":
    """The expression that a text is as a whole; of an equation the right side. None where it is none."""
    text = _NOISE.sub(" ", text).strip().rstrip(".")
    if not text or len(text) > MOST_CHARS:
        return None
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", ""):
        return None
    if tokens.count("=") == 1:
        tokens = tokens[tokens.index("=") + 1 :]
    try:
        parser = _Parser(tokens)
        found = parser.sum()
        return found if parser.done else None
    except (_NoExpression, IndexError, ZeroDivisionError):
        return None


def parse_number(text: str) -> Fraction | None:
    """A number as people write it: 1,234.5, -3/4, 12%."""
    text = text.strip().replace(",", "").removeprefix("+")
    percent = text.endswith("%")
    try:
        value = Fraction(text.rstrip("%")) if len(text) <= MOST_CHARS and re.fullmatch(r"[-\d./%]+", text) else None
    except (ValueError, ZeroDivisionError):
        return None
    return value / 100 if value is not None and percent else value


class _Parser:
    """Recursive descent: sum > product > sign > power > atom."""

    def __init__(self, tokens: list[str]) -> None:
        import sympy

        self.sympy, self.tokens, self.at, self.depth = sympy, tokens, 0, 0

    @property
    def done(self) -> bool:
        return self.at == len(self.tokens)

    def _next(self) -> str:
        return "" if self.done else self.tokens[self.at]

    def _take(self, *wanted: str) -> str:
        token = self._next()
        if not token or (wanted and token not in wanted):
            raise _NoExpression
        self.at += 1
        return token

    def sum(self) -> "sympy.Expr":
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _NoExpression
        total = self.product()
        while self._next() in ("+", "-"):
            total = total + self.product() if self._take() == "+" else total - self.product()
        self.depth -= 1
        return total

    def product(self) -> "sympy.Expr":
        value = self.signed()
        while self._next() and self._next() not in ("+", "-", ")", "}", "]"):
            if self._next() in _TIMES:
                self._take()
                value = value * self.signed()
            elif self._next() in _OVER:
                self._take()
                below = self.signed()
                if below == 0:
                    raise _NoExpression
                value = value / below
            else:
                value = value * self.power()  # nothing between two factors
        return value

    def signed(self) -> "sympy.Expr":
        sign = 1
        while self._next() in ("+", "-"):
            sign = -sign if self._take() == "-" else sign
        return sign * self.power()

    def power(self) -> "sympy.Expr":
        base = self._marked(self.atom())
        if self._next() not in ("^", "**"):
            return base
        self._take()
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _NoExpression
        exponent = self.signed()
        self.depth -= 1
        if exponent.is_number and not (exponent.is_Rational and abs(exponent) <= MOST_POWER):
            raise _NoExpression
        if not exponent.is_number and exponent.has(self.sympy.Pow):
            raise _NoExpression
        if any(len(str(abs(n))) > MOST_DIGITS for n in base.atoms(self.sympy.Integer)) or (base == 0 and exponent < 0):
            raise _NoExpression
        return base**exponent

    def _marked(self, value: "sympy.Expr") -> "sympy.Expr":
        while self._next() in ("!", "%"):
            if self._take() == "%":
                value = value / 100
            elif value.is_Integer and 0 <= value <= MOST_POWER:
                value = self.sympy.factorial(value)
            else:
                raise _NoExpression
        return value

    def atom(self) -> "sympy.Expr":
        token = self._take()
        if token in _OPENS:
            inside = self.sum()
            self._take(_OPENS[token])
            return inside
        if token[0].isdigit() or token[0] == ".":
            return self.sympy.Rational(token.replace(",", ""))
        name = token.lstrip("\\")
        if name in ("frac", "dfrac", "tfrac"):
            above, below = self._braced(), self._braced()
            if below == 0:
                raise _NoExpression
            return above / below
        if name == "sqrt" and self._next() == "[":
            root = self.atom()
            if not (root.is_Integer and 1 <= root <= MOST_POWER):
                raise _NoExpression
            return self._braced() ** (1 / root)
        if name in _FUNCTIONS:
            inside = self._braced() if self._next() in _OPENS else self.power()
            return getattr(self.sympy, name)(inside)
        if name == "pi":
            return self.sympy.pi
        if token.startswith("\\") and len(name) > 1 and name not in ("alpha", "beta", "theta", "lambda"):
            raise _NoExpression
        if not token.startswith("\\") and len(name) > 1:
            raise _NoExpression  # a word
        return self.sympy.Symbol(name)

    def _braced(self) -> "sympy.Expr":
        """The contents of braces, or the one digit that LaTeX takes without them."""
        token = self._next()
        if token.isdigit() and len(token) > 1:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        elif token not in _OPENS and not token.isdigit():
            raise _NoExpression
        return self.atom()
