"""A code interpreter for a chat model: reads its calls, runs them in the sandbox, gives their output back.

The form is InternLM2's: a system message named `interpreter` says that there is one, an assistant's message ends with a
call (`<|action_start|><|interpreter|>`, code in a block, `<|action_end|>`), and the output is an `environment` message
of the same name. Each new piece of code runs after all earlier ones, whose output is dropped: so no process waits for a
model. Their time counts again too, and code that reads the clock or draws numbers may see others.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ilm_ray.data.tokenizer.messages import Message
from ilm_ray.evaluation.programs.sandbox import Outcome, ProgramLimits, run_in_sandbox

NAME = "interpreter"
TURNS = 3  # of the model, as OpenCompass's agent for these benchmarks has it
LIMITS = ProgramLimits(cpu_s=10, wall_s=30.0)
SHOWN_CHARS = 2000  # of an output, so that a few of them fit into a context of 4096 tokens
SYSTEM = (
    "You now have access to a Python notebook. Send code to it as a python block: it runs there, what it prints and "
    "the value of its last line come back to you, and its variables stay. sympy, numpy and scipy are installed. Use it "
    "to calculate; then give the answer on a line that begins with 'FinalAnswer:'."
)
FORCED = "You should directly give results based on history information."  # OpenCompass's words
_ANSWER = "FinalAnswer:"
_CALL = re.compile(r"<\|action_start\|>\s*<\|interpreter\|>(.*?)(?:<\|action_end\|>|\Z)", re.DOTALL)
_BLOCK = re.compile(r"```(?:python|py)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_FENCES = re.compile(r"\A\s*```\w*[ \t]*\n?(.*?)(?:```\s*)?\Z", re.DOTALL)
_NAMES = re.compile(r"<(?=\|[a-z_]+\|>|/?s>)")  # of special tokens
_NOTEBOOK = """
import ast, json, os, sys, traceback

cells, names = json.loads(CELLS), {"__name__": "__main__"}

def run(cell):
    tree = ast.parse(cell, "<code>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<code>", "exec"), names)
    value = None if last is None else eval(compile(ast.Expression(last.value), "<code>", "eval"), names)
    if value is not None:
        print(value if type(value).__module__ != "builtins" else repr(value))

heard, nothing = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
for fd in (1, 2):
    os.dup2(nothing, fd)
for cell in cells[:-1]:
    try:
        run(cell)
    except BaseException:
        pass
for stream in (sys.stdout, sys.stderr):
    stream.flush()
for fd in (1, 2):
    os.dup2(heard[fd - 1], fd)
try:
    run(cells[-1])
except BaseException as error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<code>"]
    where = f" (line {lines[-1]})" if lines else ""
    sys.stdout.flush()
    sys.stderr.write("".join(traceback.format_exception_only(error)).strip() + where)
    sys.stderr.flush()
    os._exit(1)
"""


@dataclass(frozen=True)
class Reply:
    """A model's text before its call, and the code of the call, None where there is no call."""

    text: str
    code: str | None


@dataclass(frozen=True)
class Output:
    """Text that code printed, and why it ended early, "" where it did not. lasts: later code may use its variables."""

    printed: str
    error: str
    lasts: bool

    @property
    def shown(self) -> str:
        return "\n".join(filter(None, [self.printed.rstrip("\n"), self.error])) or "(no output)"


@dataclass(frozen=True)
class Solved:
    """An answer, "" where the model still called when its turns were over; its calls as OpenCompass's evaluators read
    them; all messages after the question."""

    answer: str
    steps: list[dict[str, Any]]
    messages: list[Message]


def read_reply(text: str) -> Reply:
    """A call between special tokens, or, where an endpoint leaves those out, a python block before any final answer."""
    match = _CALL.search(text)
    if match is None:
        block = _BLOCK.search(text)
        match = block if block is not None and _ANSWER not in text else None
    if match is None:
        return Reply(text, None)
    return Reply(text[: match.start()].rstrip(), _without_fences(match[1]))


def final_answer(text: str) -> str:
    """The text after the last "FinalAnswer:", the whole text where there is none."""
    return text.rpartition(_ANSWER)[2].strip()


def shots(turns: Sequence[dict[str, str]]) -> list[Message]:
    """OpenCompass's turns ({role, content}, calls in the words of another agent) in our form. Their code defines
    `solution`, which that agent calls; here it is called in the code."""
    made: list[Message] = []
    for turn in turns:
        role, content = turn["role"], turn["content"]
        if role == "assistant" and content.startswith("Tool:"):
            code = _without_fences(content.partition("Tool Input:")[2])
            called = "\nprint(solution())" if "def solution(" in code else ""
            made.append(_call("", f"{code}{called}"))
        elif role == "system":
            made.append({"role": "environment", "name": NAME, "content": content.removeprefix("Response:")})
        else:
            made.append({"role": role, "content": content})
    return made


def run_code(code: str, earlier: Sequence[str], limits: ProgramLimits = LIMITS) -> Output:
    """Run code after all of `earlier` in one namespace, in the sandbox; only its own output is seen."""
    cells = json.dumps([*earlier, code])
    return read_outcome(run_in_sandbox(_NOTEBOOK.replace("CELLS", repr(cells), 1), "", limits))


def read_outcome(outcome: Outcome) -> Output:
    """The sandbox's outcome for the model: printed lines, and why the program ended early."""
    printed = plain(outcome.stdout)
    if outcome.passed:
        return Output(printed, "", True)
    if outcome.reason == "exit":
        return Output(printed, plain(outcome.stderr.strip()) or outcome.detail, True)
    return Output(printed, f"stopped: {outcome.detail}", False)


def plain(text: str) -> str:
    """Output as a model may read it: its two ends, no control characters, no name of a special token."""
    if len(text) > SHOWN_CHARS:
        half, left_out = SHOWN_CHARS // 2, len(text) - SHOWN_CHARS
        text = f"{text[:half]}\n... ({left_out:,} characters left out) ...\n{text[-half:]}"
    text = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
    return _NAMES.sub("< ", text)


def solve(
    question: Sequence[Message],
    ask: Callable[[Sequence[Message]], str],
    run: Callable[[str, Sequence[str]], Output] = run_code,
) -> Solved:
    """Let a model answer with the interpreter in TURNS replies at most; before the last, FORCED asks for the answer.

    question: the conversation so far; ask: the model's reply to a conversation.
    """
    messages, cells, steps = list[Message](), list[str](), list[dict[str, Any]]()
    for turn in range(TURNS):
        if turn == TURNS - 1:
            messages.append({"role": "system", "content": FORCED})
        reply = read_reply(ask([*question, *messages]))
        if reply.code is None:
            messages.append({"role": "assistant", "content": reply.text})
            return Solved(final_answer(reply.text), steps, messages)
        messages.append(_call(reply.text, reply.code))
        if turn < TURNS - 1:
            output = run(reply.code, cells)
            cells += [reply.code] if output.lasts else []
            steps.append(_step(reply, output))
            messages.append({"role": "environment", "name": NAME, "content": output.shown})
    return Solved("", steps, messages)


def written(message: Message) -> str:
    """A message's content and call as one text, with the names of the special tokens."""
    action = message.get("action")
    if not action:
        return message["content"]
    return f"{message['content']}<|action_start|><|{action['name']}|>\n{action['content']}<|action_end|>"


def _call(text: str, code: str) -> Message:
    return {"role": "assistant", "content": text, "action": {"name": NAME, "content": f"```python\n{code}\n```"}}


def _without_fences(code: str) -> str:
    match = _FENCES.match(code)
    return (match[1] if match else code).strip("\n")


def _step(reply: Reply, output: Output) -> dict[str, Any]:
    """A call as lagent's agents write it: the evaluators look for the name of their tool."""
    return {
        "type": "PythonInterpreter",
        "thought": reply.text,
        "args": {"command": reply.code},
        "result": {"text": output.printed.strip()},
        "errmsg": output.error or None,
        "valid": 1,
        "state": 0 if not output.error else 1,
    }
