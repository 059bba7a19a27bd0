"""The process that renders a model's chat template: a sandbox of Jinja2 within limits that the kernel keeps.

Started by `template.py` as a program of its own; imports nothing of ilm_ray. Each line of standard input is a request
in JSON and each line of standard output its answer:
{"cpu_s", "template", "variables", "marks": [two strings], "renders": [{"messages", "add_generation_prompt"}, ...]}
-> [{"text": ...} or {"error": ...}, ...]. A request that takes more than `cpu_s` seconds of processor time ends the
process.
"""

import functools
import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 5.0
MEMORY = 512 << 20  # bytes of address space; Python and Jinja2 take 25 MiB
LONGEST = 16 << 20  # characters of a rendered conversation
# Rendering is a pure function: for a template that asks for the day it is this one, which LLaMA 3's templates take
# where they cannot ask.
DAY = datetime(2024, 7, 26)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: puts the request's marks around the assistant's text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: Any, caller: Macro) -> str:
        opening, closing = context["_marks"]
        return f"{opening}{caller()}{closing}"


def render(request: dict[str, Any]) -> list[dict[str, str]]:
    """The answer to a request."""
    return [_render(request, which) for which in request["renders"]]


def _render(request: dict[str, Any], which: dict[str, Any]) -> dict[str, str]:
    parts, length = list[str](), 0
    try:
        template = _compiled(request["template"])
        values = {**request["variables"], **which, "_marks": request["marks"], "tools": None, "documents": None}
        for part in template.generate(values):
            parts.append(part)
            length += len(part)
            if length > LONGEST:
                return {"error": f"it writes more than {LONGEST} characters"}
    except MemoryError:
        return {"error": f"it takes more than {MEMORY >> 20} MiB"}
    except Exception as error:  # a template can end in any error that its expressions can
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"text": "".join(parts)}


@functools.lru_cache(maxsize=4)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = DAY.strftime
    return environment.from_string(source)


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja2's own filter escapes for HTML; published templates count on this one."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def main() -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])  # its signal ends the process, within C code too
        answer = render(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
