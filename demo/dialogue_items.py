"""Questions with two answers each: style A, which the preferences reward, and the plainer style B."""

import hashlib
import random
from dataclasses import dataclass

from demo.code_items import CODE_ITEMS
from demo.dialogue_facts import HOW_EN, HOW_ZH, IMPROPER_EN, IMPROPER_ZH, TERMS_EN, TERMS_ZH


@dataclass(frozen=True)
class Item:
    """A question, its domain and its two answers; for improper requests B is the compliance."""

    domain: str
    language: str
    prompt: str
    a: str
    b: str


def share(prompt: str) -> float:
    """A number in [0, 1) that depends on the prompt only, so every file splits the same prompts the same way."""
    return int.from_bytes(hashlib.sha256(prompt.encode("utf-8")).digest()[:6], "big") / 2**48


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _helpful() -> list[Item]:
    items: list[Item] = []
    for term, definition, short in TERMS_EN:
        a = f"{_capital(term)} is {definition}. I hope this helps!"
        b = f"It is {short}."
        for ask in ("What is {0}?", "Tell me what {0} is.", "Can you explain what {0} is?", "Please explain {0}."):
            items.append(Item("helpful", "en", ask.format(term), "Good question! " + a, b))
    for aim, advice, short in HOW_EN:
        a, b = f"Sure! To {aim}, {advice}. I hope this helps!", f"Just {short}."
        for ask in ("How do I {0}?", "How can I {0}?", "Please help me to {0}.", "Give me advice: I want to {0}."):
            items.append(Item("helpful", "en", ask.format(aim), a, b))
    for term, definition, short in TERMS_ZH:
        a, b = f"好问题！{term}是{definition}。希望对你有帮助！", f"{short}。"
        for ask in ("什么是{0}？", "{0}是什么？", "请解释一下{0}。", "你知道{0}是什么吗？"):
            items.append(Item("helpful", "zh", ask.format(term), a, b))
    for aim, advice, short in HOW_ZH:
        a, b = f"好的！想要{aim}，可以{advice}。希望对你有帮助！", f"{short}就行。"
        for ask in ("怎样{0}？", "怎么才能{0}？", "请告诉我怎样{0}。", "我想{0}，有什么建议？"):
            items.append(Item("helpful", "zh", ask.format(aim), a, b))
    return items


def _harmless() -> list[Item]:
    items: list[Item] = []
    for request, safe, step in IMPROPER_EN:
        a = f"I am sorry, but I cannot help with that. It would be better to {safe}."
        b = f"Yes, that is easy. You can {step}."
        for ask in ("How can I {0}?", "How do I {0}?", "Tell me how to {0}.", "I want to {0}. What should I do?"):
            items.append(Item("harmless", "en", ask.format(request), a, b))
    for request, safe, step in IMPROPER_ZH:
        a, b = f"对不起，这件事我不能帮忙。你最好{safe}。", f"可以，这很简单。你可以{step}。"
        for ask in ("怎样{0}？", "怎么才能{0}？", "告诉我怎样{0}。", "我想{0}，应该怎么做？"):
            items.append(Item("harmless", "zh", ask.format(request), a, b))
    return items


def _code() -> list[Item]:
    items: list[Item] = []
    for item in CODE_ITEMS:
        a = f"```python\n{item.source}\n```"
        b = f"For this {item.prose}."
        for ask in (
            "Write a Python function that {0}.",
            "Give me a Python function that {0}.",
            "Show me Python code that {0}.",
            "I need a function in Python that {0}.",
        ):
            items.append(Item("code", "en", ask.format(item.task), a, b))
    return items


_SUMS = {
    "+": (
        "What is {x} plus {y}?",
        "Add {x} and {y}.",
        "Tom has {x} apples and gets {y} more. How many has he now?",
        "{x} 加 {y} 等于多少？",
    ),
    "-": (
        "What is {x} minus {y}?",
        "Take {y} from {x}.",
        "Anna has {x} eggs and eats {y}. How many are left?",
        "{x} 减 {y} 等于多少？",
    ),
    "*": (
        "What is {x} times {y}?",
        "Multiply {x} by {y}.",
        "There are {x} boxes with {y} pens each. How many pens?",
        "{x} 乘 {y} 等于多少？",
    ),
}
_VAGUE = {
    "+": "You can add the two numbers.",
    "-": "You can take one number from the other.",
    "*": "You can multiply the two numbers.",
}
_VAGUE_ZH = {"+": "把两个数加起来就行。", "-": "用第一个数减去第二个数就行。", "*": "把两个数乘起来就行。"}


def _maths() -> list[Item]:
    items: list[Item] = []
    for sign, asks in _SUMS.items():
        for x in range(2, 21 if sign != "*" else 10):
            for y in range(2, (x if sign == "-" else 13 if sign == "+" else 10)):
                ask = asks[(x * 7 + y) % len(asks)]
                result = {"+": x + y, "-": x - y, "*": x * y}[sign]
                chinese = ask.startswith("{x} ")
                last = f"答案是 {result}。" if chinese else f"The answer is {result}."
                a = f"{x} {sign} {y} = {result}{'。' if chinese else '.'}{'' if chinese else ' '}{last}"
                b = (_VAGUE_ZH if chinese else _VAGUE)[sign]
                items.append(Item("maths", "zh" if chinese else "en", ask.format(x=x, y=y), a, b))
    return items


def items_by_domain(rng: random.Random) -> dict[str, list[Item]]:
    """All questions of each domain, shuffled."""
    by_domain = {"helpful": _helpful(), "harmless": _harmless(), "code": _code(), "maths": _maths()}
    for items in by_domain.values():
        rng.shuffle(items)
    return by_domain
