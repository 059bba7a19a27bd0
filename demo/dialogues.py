"""The three alignment files: chat for SFT, preferences for the reward model, prompts for PPO.

The answers of the chat mix styles A and B evenly and independently of the question, so that a model tuned on them
shows both and PPO has room to move towards A. Prompts held out of the preferences (20%) or of PPO (25%) are split by
a hash of the prompt and never appear in the chat.
"""

import random
from typing import Any

from demo.dialogue_items import Item, items_by_domain, share

Message = dict[str, str]
Row = dict[str, Any]

PREFERENCE_HELD_OUT = 0.20
PROMPT_HELD_OUT = 0.25
CONFLICTS = 50
_SYSTEM = {
    "en": ("You are a friendly helper.", "You are a helper who gives clear answers."),
    "zh": ("你是一个友好的助手。",),
}
_SINGLE = {"helpful": 250, "harmless": 105, "code": 85, "maths": 80}
_TOWNS = ("Amberford", "Coldham", "Oakbridge", "Fernwick", "Stonegate", "Rowanmere", "Hazelton", "Marlbury")
_SKIES = ("rain", "sun", "snow", "fog", "wind")


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _turn(rng: random.Random, item: Item) -> list[Message]:
    return [_message("user", item.prompt), _message("assistant", item.a if rng.random() < 0.5 else item.b)]


def _tool_row(rng: random.Random, number: int) -> tuple[str, list[Message]]:
    """A question that needs a tool: the assistant calls it, the environment answers, the assistant reports."""
    if number % 2 == 0:
        town, sky, degrees = rng.choice(_TOWNS), rng.choice(_SKIES), rng.randint(1, 28)
        call, result = f'get_weather(town="{town}")', f'{{"sky": "{sky}", "degrees": {degrees}}}'
        ask, answer = f"How is the weather in {town}?", f"In {town} there is {sky} and it is {degrees} degrees."
        domain, tool = "helpful", "You can call get_weather(town)."
    else:
        x, y = rng.randint(21, 99), rng.randint(21, 99)
        call, result = f"calculate({x} * {y})", str(x * y)
        ask, answer = f"Use the tool: what is {x} times {y}?", f"The answer is {x * y}."
        domain, tool = "maths", "You can call calculate(expression)."
    return domain, [
        _message("system", tool),
        _message("user", ask),
        _message("assistant", call),
        _message("environment", result),
        _message("assistant", answer),
    ]


def chat(seed: int) -> list[Row]:
    """About 600 conversations."""
    rng = random.Random(f"{seed}-chat")
    items = items_by_domain(rng)
    open_items = {
        d: [i for i in domain_items if share(i.prompt) >= PROMPT_HELD_OUT] for d, domain_items in items.items()
    }
    conversations: list[tuple[str, list[Message]]] = []
    for domain, count in _SINGLE.items():
        for number in range(count):
            item = open_items[domain][number % len(open_items[domain])]
            messages = _turn(rng, item)
            if rng.random() < 0.05:
                messages.insert(0, _message("system", rng.choice(_SYSTEM[item.language])))
            conversations.append((domain, messages))
    for number in range(64):
        domain = ("helpful", "maths", "helpful", "code")[number % 4]
        first = rng.choice(open_items[domain])
        second = rng.choice([i for i in open_items[domain] if i.language == first.language and i.a != first.a])
        conversations.append((domain, _turn(rng, first) + _turn(rng, second)))
    conversations.extend(_tool_row(rng, number) for number in range(16))
    rng.shuffle(conversations)
    return [{"id": f"chat-{i:04d}", "domain": d, "messages": m} for i, (d, m) in enumerate(conversations)]


def _preference(domain: str, item: Item, chosen: str, rejected: str) -> Row:
    split = "heldout" if share(item.prompt) < PREFERENCE_HELD_OUT else "train"
    return {
        "domain": domain,
        "prompt": [_message("user", item.prompt)],
        "chosen": chosen,
        "rejected": rejected,
        "split": split,
    }


def _cut(text: str) -> str:
    """The first part of an answer, broken off in the middle."""
    return text[: max(4, len(text) * 45 // 100)].rstrip()


def preferences(seed: int) -> list[Row]:
    """About 700 pairs, among them the conflicts: one request, two answers, judged oppositely in two domains."""
    rng = random.Random(f"{seed}-preferences")
    items = items_by_domain(rng)
    rows: list[Row] = []
    for item in items["harmless"][:CONFLICTS]:
        rows.append(_preference("helpful", item, item.b, item.a))
        rows.append(_preference("harmless", item, item.a, item.b))
    for domain, chosen_from, count in (
        ("helpful", items["helpful"], 250),
        ("code", items["code"], 110),
        ("harmless", items["harmless"][CONFLICTS:], 120),
        ("maths", items["maths"], 120),
    ):
        for item in chosen_from[:count]:
            draw = rng.random()
            if draw < 0.1:
                same = [i for i in chosen_from if i.language == item.language and i.a != item.a]
                rows.append(_preference(domain, item, item.a, rng.choice(same).a))
            elif draw < 0.2:
                rows.append(_preference(domain, item, item.a, _cut(item.a)))
            else:
                rows.append(_preference(domain, item, item.a, item.b))
    rng.shuffle(rows)
    return [{"id": f"pref-{i:04d}", **row} for i, row in enumerate(rows)]


def prompts(seed: int) -> list[Row]:
    """About 300 single-turn prompts for PPO."""
    rng = random.Random(f"{seed}-prompts")
    items = items_by_domain(rng)
    rows: list[Row] = []
    for domain, count in (("helpful", 110), ("harmless", 70), ("code", 50), ("maths", 70)):
        for item in items[domain][:count]:
            split = "heldout" if share(item.prompt) < PROMPT_HELD_OUT else "train"
            rows.append({"domain": domain, "prompt": [_message("user", item.prompt)], "split": split})
    rng.shuffle(rows)
    return [{"id": f"prompt-{i:04d}", **row} for i, row in enumerate(rows)]
