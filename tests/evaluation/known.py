"""Items of the published benchmark files, read without OpenCompass, and two models that know them: one answers right,
the other draws among the choices. Both serve OpenAI's routes."""

import csv
import gzip
import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from typing import Any

import ahocorasick

LETTERS = "ABCDEFGH"
SEVERAL = ("gaokao-physics", "jec-qa-kd", "jec-qa-ca")  # sets of AGIEval where any number of choices may be right


@dataclass(frozen=True)
class Item:
    """question: what a prompt about this item holds; also: more that it holds; answer: what a right model says;
    ends: what the text of the right choice ends with; choices: what a guessing model says one of."""

    question: str
    also: tuple[str, ...]
    answer: str
    ends: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def items(folder: Path) -> Iterator[Item]:
    """All items of shared/data/eval."""
    for path in sorted((folder / "mmlu/test").glob("*.csv")):
        for question, a, b, c, d, gold in csv.reader(path.open(encoding="utf-8")):
            choices = tuple(f"The answer is {x}" for x in "ABCD")
            yield Item(
                question,
                (f"A. {a}", f"B. {b}", f"C. {c}", f"D. {d}"),
                f"The answer is {gold}",
                (f"Answer: {gold}",),
                choices,
            )
    for path in sorted((folder / "cmmlu/test").glob("*.csv")):
        with path.open(encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                question, *texts = _filled({"question": row["Question"], **{x: row[x] for x in "ABCD"}})
                also = tuple(f"{x}. {text}" for x, text in zip("ABCD", texts, strict=True))
                choices = tuple(f"答案是: {x}" for x in "ABCD")
                yield Item(question, also, f"答案是: {row['Answer']}", (f"答案是: {row['Answer']}",), choices)
    yield from _agieval(folder / "agieval")
    for part in ("m", "d"):
        for turns, questions, _ in json.loads((folder / f"c3/c3-{part}-dev.json").read_text(encoding="utf-8")):
            for row in questions:
                letter = LETTERS[row["choice"].index(row["answer"])]
                offered = tuple(LETTERS[: len(row["choice"])])
                yield Item(row["question"], tuple(turns), letter, (f"答案：{row['answer']}",), offered)
    for row in _rows(folder / "gsm8k/test.jsonl"):
        yield Item(row["question"], (), f"The answer is {row['answer'].split('#### ')[1].replace(',', '')}")
    for path in sorted((folder / "bbh/bbh").glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["examples"]:
            yield Item(row["input"], (), f"So the answer is {row['target']}")
    for row in json.loads((folder / "theoremqa/theoremqa_test.json").read_text(encoding="utf-8")):
        yield Item(row["Question"], (), f"The answer is {row['Answer']}")
    for row in _rows(folder / "llm_foundry_qa/winogrande.jsonl"):
        sentences = [f"{context} {row['continuation']}" for context in row["context_options"]]
        for sentence in sentences:  # as likelihoods are asked, and as a choice is
            yield Item(sentence, (), "", (sentences[row["gold"]],))
        letters = takewhile(lambda pair: pair[0] == pair[1], zip(*row["context_options"], strict=False))
        before = "".join(letter for letter, _ in letters).rpartition(" ")[0]
        yield Item(f"_ {row['continuation']}", (before, "\nA. "), "AB"[row["gold"]], (), ("A", "B"))
    yield from _flores(folder / "flores200/devtest")
    for path in sorted(folder.glob("leval/*/*.jsonl")):
        for row in _rows(path):
            for question, answer in zip(row["instructions"], row["outputs"], strict=True):
                yield Item(question, (row["input"][:200],), answer)
    packed = (folder / "humaneval/HumanEval.jsonl.gz").read_bytes()
    for row in map(json.loads, gzip.decompress(packed).decode().splitlines()):
        yield Item(row["prompt"], (), f"```python\n{row['prompt']}{row['canonical_solution']}\n```")
    for row in json.loads((folder / "mbpp_sanitized/sanitized-mbpp.json").read_text(encoding="utf-8")):
        yield Item(row["prompt"], (row["test_list"][0],), f"```python\n{row['code']}\n```")


def out_of_reach(name: str, folder: Path) -> int:
    """Number of items of a set, by OpenCompass's name, that any model may get wrong: the same question stands
    there twice with different answers, or the published answer has a form that OpenCompass 0.5.4 does not read."""
    if name.startswith("agieval-"):
        stem = name.removeprefix("agieval-").replace("sat-en-without-passage", "sat-en")
        rows = list(_rows(folder / f"agieval/{stem}.jsonl"))
        questions = [((row["passage"] or "") + row["question"], tuple(row["options"] or [])) for row in rows]
        golds = [str(row["label"] or row["answer"]) for row in rows]
        if stem in ("math", "gaokao-mathcloze"):  # of an equation it takes the right-hand side alone
            unread = ["=" in gold for gold in golds]
        elif stem in SEVERAL:  # it compares all letters in the answer with the label as that stands
            unread = [not row["label"] or not set(row["label"]) <= set("ABCD") for row in rows]
        else:  # it takes one letter
            unread = [len(gold) > 1 for gold in golds]
    elif name.startswith("bbh-"):
        document = json.loads((folder / f"bbh/bbh/{name.removeprefix('bbh-')}.json").read_text(encoding="utf-8"))
        questions = [(row["input"], ()) for row in document["examples"]]
        golds = [row["target"] for row in document["examples"]]
        unread = [False] * len(golds)
    elif name == "TheoremQA":
        rows = json.loads((folder / "theoremqa/theoremqa_test.json").read_text(encoding="utf-8"))
        questions, golds = [(row["Question"], ()) for row in rows], [str(row["Answer"]) for row in rows]
        lists = [row["Answer"] if isinstance(row["Answer"], list) else None for row in rows]
        # It makes a set of a list, and a number of a list of one.
        unread = [many is not None and len(set(many)) < max(2, len(many)) for many in lists]
    else:
        return 0
    last = dict(zip(questions, golds, strict=True))  # a model that knows both answers says one
    return sum(bad or last[question] != gold for question, gold, bad in zip(questions, golds, unread, strict=True))


def _filled(fields: dict[str, str]) -> list[str]:
    """The fields as OpenCompass's prompts show them: it fills in one after the other, each also where the text of an
    earlier one happens to hold its name in braces, as LaTeX's \\boldsymbol{A} does."""
    shown = []
    for number, text in enumerate(fields.values()):
        for name, later in list(fields.items())[number + 1 :]:
            text = text.replace(f"{{{name}}}", later)
        shown.append(text)
    return shown


def _agieval(folder: Path) -> Iterator[Item]:
    for path in sorted(folder.glob("*.jsonl")):
        chinese = path.stem.startswith(("gaokao", "jec")) or path.stem == "logiqa-zh"
        for row in _rows(path):
            question, options = (row["passage"] or "") + row["question"], row["options"] or []
            gold = row["label"] or row["answer"]
            gold = "".join(gold) if isinstance(gold, list) else str(gold)
            if not options:
                yield Item(question, (), f"The answer is ${gold}$" if path.stem == "math" else f"答案是：${gold}$")
                continue
            hints = ("答案是：",) if chinese else ("The answer is ",)
            choices = tuple(f"{hints[0]}{LETTERS[i]}" for i in range(len(options)))
            yield Item(question, tuple(options), f"{hints[0]}{gold}", tuple(f"{h}{gold}" for h in hints), choices)


def _flores(folder: Path) -> Iterator[Item]:
    named = {
        "deu_Latn": "German",
        "fra_Latn": "French",
        "jpn_Jpan": "Japanese",
        "zho_Hans": "Chinese (Simpl)",
        "zho_Hant": "Chinese (Trad)",
    }
    texts = {
        code: (folder / f"{code}.devtest").read_text(encoding="utf-8").split("\n") for code in ("eng_Latn", *named)
    }
    for code, language in named.items():
        for english, other in zip(texts["eng_Latn"][:100], texts[code][:100], strict=True):
            yield Item(f"English statements to {language}.\n{english.strip()}", (), other.strip())
            yield Item(f"{language} statements to English.\n{other.strip()}", (), english.strip())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def programs(folder: Path) -> Iterator[Item]:
    """HumanEval-X's items. OpenCompass takes the whole function as an answer in all languages but Python, where imports
    in front of it hide it: there the body is the answer."""
    for path in sorted((folder / "humaneval_x").glob("*.jsonl.gz")):
        for row in map(json.loads, gzip.decompress(path.read_bytes()).decode().splitlines()):
            head = "" if row["task_id"].startswith("Python/") else row["prompt"]
            yield Item(row["prompt"], (), f"Here it is.\n```\n{head}{row['canonical_solution']}\n```")


class Knowing:
    """Finds the item that a prompt asks about: the question that ends last in it, shots before it notwithstanding."""

    def __init__(self, known: Iterator[Item], right: bool) -> None:
        self.right, self.unknown = right, list[str]()
        self._by_question: dict[str, list[Item]] = defaultdict(list)
        for item in known:
            self._by_question[item.question.strip()].append(item)
        self._questions = ahocorasick.Automaton()
        for question in self._by_question:
            self._questions.add_word(question, question)
        self._questions.make_automaton()

    def find(self, prompt: str) -> Item | None:
        spans = {(end - len(question) + 1, end, question) for end, question in self._questions.iter(prompt)}
        whole = set[tuple[int, int, str]]()
        reached = -1
        for span in sorted(spans, key=lambda span: (span[0], -span[1])):  # a question inside another is a part of it
            if span[1] > reached:
                whole.add(span)
                reached = span[1]
        for _, _, question in sorted(whole, key=lambda span: -span[1]):
            items = [item for item in self._by_question[question] if all(part in prompt for part in item.also)]
            if items:
                return items[-1]
        return None

    def answer(self, prompt: str) -> str:
        item = self.find(prompt)
        if item is None:
            self.unknown.append(prompt)
            return ""
        if self.right:
            return item.answer
        return item.choices[_drawn(prompt) % len(item.choices)] if item.choices else "no"

    def with_interpreter(self, messages: list[dict[str, Any]]) -> str:
        """One that is right has code calculate the answer, and says what the environment said; the other calls
        nothing."""
        if not self.right:
            return "FinalAnswer: none"
        if messages[-1]["role"] == "environment":
            return f"According to the response.\nFinalAnswer: {messages[-1]['content']}"
        item = self.find(messages[-1]["content"])
        if item is None:
            self.unknown.append(messages[-1]["content"])
            return ""
        number = item.answer.rpartition(" ")[2]
        return (
            f"I calculate.<|action_start|><|interpreter|>\n```python\nhalf = {number} / 2\nhalf * 2\n```<|action_end|>"
        )

    def score(self, text: str) -> float:
        """Log-probability of each token of a text."""
        if not self.right:
            return -1e-3 - _drawn(text) / 2**64
        item = self.find(text)
        if item is None:
            self.unknown.append(text)
        return -0.1 if item is not None and text.endswith(item.ends) else -5.0


def _drawn(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Served:
    """The model behind a URL, as a context. `asked` counts requests, `keys` holds what they were authorised with."""

    def __init__(self, model: Any) -> None:
        self.model, self.requests, self.keys = model, 0, set[str | None]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests += 1
                outer.keys.add(self.headers["Authorization"])
                payload = json.dumps(outer.reply(body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        if "messages" in body:
            tools = any(message.get("name") == "interpreter" for message in body["messages"])
            content = (
                self.model.with_interpreter(body["messages"])
                if tools
                else self.model.answer(body["messages"][-1]["content"])
            )
            return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            if body.get("echo"):
                score = self.model.score(prompt)
                tokens = [None, *[score] * 9]
                choices.append({"index": index, "text": prompt, "logprobs": {"token_logprobs": tokens}})
            else:
                choices.append({"index": index, "text": self.model.answer(prompt)})
        return {"choices": choices}
