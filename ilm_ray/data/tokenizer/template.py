"""A chat template of a model that somebody brings, rendered in a process of its own.

A template is a program of a stranger. Jinja2's sandbox keeps it from attributes and modules, but neither from loops nor
from gigabytes: `'%1000000000d' % 1` is one call into C, which nothing within the process can stop. The kernel can, so
the template has a process with limits on memory and processor time. It starts in 0.1 s, at the first conversation.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.template_process import CPU_S

_PROGRAM = Path(__file__).with_name("template_process.py")
LARGEST = 1 << 18  # characters of a template


class Render(NamedTuple):
    """One conversation to render."""

    messages: Sequence[Any]
    generation_prompt: bool


class ChatTemplate:
    """source: Jinja2; variables: names that it may read (bos_token, eos_token, ...); where: its folder, for errors;
    cpu_s: processor time that the conversations of a call may take."""

    def __init__(self, source: str, variables: Mapping[str, Any], where: str, cpu_s: float = CPU_S) -> None:
        if len(source) > LARGEST:
            raise UserError(f"{where} has a chat template of {len(source)} characters; the limit is {LARGEST}")
        self.source, self.where, self._cpu_s = source, where, cpu_s
        self._variables = dict(variables)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a forked process starts its own

    def render(self, renders: Sequence[Render], marks: tuple[str, str] = ("", "")) -> list[str]:
        """Texts of the conversations, with `marks` around the text of `{% generation %}` blocks.

        Raises UserError where the template refuses a conversation, is none, or goes beyond its limits.
        """
        texts = self.try_render(renders, marks)
        for text in texts:
            if isinstance(text, UserError):
                raise text
        return [text for text in texts if isinstance(text, str)]

    def try_render(self, renders: Sequence[Render], marks: tuple[str, str] = ("", "")) -> list[str | UserError]:
        """As `render`, with the error in the place of the text."""
        request = {
            "template": self.source,
            "variables": self._variables,
            "marks": marks,
            "cpu_s": self._cpu_s,
            "renders": [{"messages": r.messages, "add_generation_prompt": r.generation_prompt} for r in renders],
        }
        with self._lock:
            line = self._ask(json.dumps(request))
        if not line:
            raise UserError(
                f"{self.where}: the chat template takes more than {self._cpu_s:g} s or too much memory to write a "
                "conversation; give another one"
            )
        says = f"{self.where}: the chat template says: "
        return [a["text"] if "text" in a else UserError(says + a["error"]) for a in json.loads(line)]

    def _ask(self, line: str) -> str:
        """The answer's line; an empty one where the process has ended."""
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM)],  # -P: the modules beside the program are not for import
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",
            )
            weakref.finalize(self, _end, self._process, self._owner)
        process, answer = self._process, ""
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer:
            _end(process, self._owner)
            self._process = None
        return answer


def _end(process: subprocess.Popen[str], owner: int) -> None:
    if owner == os.getpid():
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
