"""Text that the rules are for: each kind made from a good text of the language by one thing that goes wrong."""

import random
from collections.abc import Callable

from ilm_ray.data.documents.language import tokens

MENU = {
    "en": "Home|About us|Products|News|Contact|My account|Wish list|Shoes|Jackets|Sale|Gift cards|Help|Stores|FAQ",
    "zh": "首页|关于公司|产品中心|新闻动态|人才招聘|在线留言|皮具|手表|女装|男装|图书|会员中心|购物车|帮助",
}
TEMPLATE = {
    "en": "Copyright 2019 Acme Ltd. All rights reserved.|Privacy policy|Terms of service|We use cookies.|"
    "Your browser does not support video.|Powered by WordPress|Sign up for our newsletter today|Skip to content",
    "zh": "版权所有 某某网络有限公司|未经许可，不得转载|沪ICP备12345678号|联系我们|关于我们|公网安备 3101",
}


def shuffled(text: str, language: str, rng: random.Random) -> str:
    text *= max(1, 1500 // len(text))
    return "".join(rng.sample(text, len(text)))


def link_list(text: str, language: str, rng: random.Random) -> str:
    return "\n".join(f"{w} http://www.{w}-site.com/{rng.randrange(9999)}/{w}.html" for w in _words(text, rng, 40))


def numbers(text: str, language: str, rng: random.Random) -> str:
    header = " | ".join(_words(text, rng, 4))
    rows = [" | ".join(f"{rng.uniform(0, 5000):.2f}" for _ in range(5)) for _ in range(40)]
    return "\n".join([header, *rows])


def menu(text: str, language: str, rng: random.Random) -> str:
    return "\n".join(rng.choices(MENU[language].split("|"), k=60))


def mojibake(text: str, language: str, rng: random.Random) -> str:
    if language == "zh":
        codec = rng.choice(("gb18030", "cp1252"))
        return text.encode().decode(codec, "replace")
    return text.replace("e ", "é ").replace("'", "’").encode().decode("cp1252", "replace")


def keywords(text: str, language: str, rng: random.Random) -> str:
    joint, space = (", ", " ") if language == "en" else ("，", "")
    some = _words(text, rng, 12)
    return joint.join(space.join(rng.choices(some, k=3)) for _ in range(120))


def repeated(text: str, language: str, rng: random.Random) -> str:
    paragraph = rng.choice([line for line in text.split("\n") if len(line) > 20])
    return "\n\n".join([paragraph] * max(6, 600 // len(paragraph)))


def template(text: str, language: str, rng: random.Random) -> str:
    lines = rng.choices(TEMPLATE[language].split("|"), k=20) + rng.sample(MENU[language].split("|"), 8)
    return "\n".join(rng.sample(lines, len(lines)))


KINDS: dict[str, Callable[[str, str, random.Random], str]] = {
    f.__name__: f for f in (shuffled, link_list, numbers, menu, mojibake, keywords, repeated, template)
}


def _words(text: str, rng: random.Random, count: int) -> list[str]:
    long = [word for word in tokens(text) if len(word) > 3]
    if len(long) < 40:  # Chinese: pairs of characters
        han = "".join(tokens(text))
        return [han[at : at + 2] for at in (rng.randrange(len(han) - 2) for _ in range(count))]
    return rng.choices(long, k=count)
