"""Grammars for the pages that a filter should reject: adverts, adults-only hints, insults, garbled and repeated text.

All of it is invented and mild: the adults-only pages only hint at a night club, the insults are silly ones.
"""

import random

from demo.sentences import Article, Deck, place_name, writer

GOODS: dict[str, tuple[str, ...]] = {
    "en": (
        "wonder mattress",
        "super blender",
        "magic mop",
        "miracle lamp",
        "mega phone case",
        "turbo toaster",
        "deluxe garden hose",
        "luxury pillow",
        "slimming tea",
        "power drill set",
        "golden watch strap",
    ),
    "zh": ("神奇床垫", "超级榨汁机", "魔力拖把", "豪华枕头", "瘦身茶", "万能手机壳", "强力电钻", "金色表带"),
}

ADVERT: dict[str, tuple[str, ...]] = {
    "en": (
        "Buy now and save {n}% on every {g} in our store!",
        "Limited time offer: order the {g} today and get free shipping!",
        "Click here to claim your discount coupon for the {g}.",
        "Best price guaranteed, only ${n}.99, while stocks last!",
        "Call our hotline today and receive a second {g} at no extra cost.",
        "Thousands of happy customers already bought the {g}.",
        "Do not miss this deal: add the {g} to your cart now!",
        "Sign up for our newsletter and win a voucher worth ${n}.",
        "Special promotion this weekend: buy one {g}, get one free.",
        "Our {g} comes with a money-back guarantee and express delivery.",
        "Use promo code SAVE{n} at checkout for an extra discount.",
        "Hurry, the sale on the {g} ends at midnight!",
        "Shop now for the cheapest {g} in {t}.",
        "Contact our sales team for bulk prices and exclusive offers.",
    ),
    "zh": (
        "立即购买{g}，全场优惠{n}%！",
        "限时特价，今天下单{g}就能免费包邮！",
        "点击这里领取{g}的优惠券。",
        "最低价格保证，只要{n}元，卖完为止！",
        "马上拨打热线电话，第二件{g}半价。",
        "已经有上万名顾客购买了{g}。",
        "机会难得，快把{g}加入购物车！",
        "注册会员就送{n}元代金券。",
        "本周末大促销，{g}买一送一。",
        "{g}支持无理由退款，快递当天发货。",
        "结账时输入优惠码，再减{n}元。",
        "抢购从速，{g}的特卖今晚结束！",
        "批发团购请联系我们的客服，价格更优惠。",
        "厂家直销{g}，欢迎来电咨询订购。",
    ),
}

ADULT: dict[str, tuple[str, ...]] = {
    "en": (
        "Welcome to the velvet room, an adults only lounge in {t}.",
        "You must be over eighteen to enter this over-18 nightclub gallery.",
        "Our steamy late show starts at midnight for grown-up guests.",
        "Browse the naughty gallery with {n} private pictures for members.",
        "This adults only page hints at saucy cabaret nights.",
        "Flirty hosts wait in the velvet room every weekend.",
        "Confirm your age to unlock the steamy adult gallery.",
        "The over-18 nightclub offers private booths and a saucy revue.",
        "Members of the adults only lounge see the uncut late show.",
        "Spicy chat rooms for grown-ups are open all night.",
        "Pick from {n} naughty costumes for the midnight cabaret.",
        "No minors: the velvet room is strictly adult entertainment.",
    ),
    "zh": (
        "欢迎来到{t}的成人夜店，未满十八岁禁止入内。",
        "午夜火辣表演只给成年会员观看。",
        "确认年龄以后可以打开成人图库。",
        "会员可以浏览{n}张私密照片。",
        "天鹅绒包厢每个周末都有性感主持人。",
        "成人夜店提供私人包厢和深夜歌舞。",
        "火辣聊天室整夜开放，仅限成人。",
        "未成年人请离开，这里是成人娱乐。",
        "成人图库每晚更新，火辣又神秘。",
        "从{n}套性感服装里挑选午夜装扮。",
    ),
}

TOXIC: dict[str, tuple[str, ...]] = {
    "en": (
        "You muddle-headed turnip, nobody in {t} wants to hear your nonsense.",
        "Shut your gravy hole, you soggy biscuit.",
        "What a clueless pudding brain you are!",
        "Everyone who likes this is a pathetic noodle-brained goose.",
        "Go away, you useless bucket of stale custard.",
        "I despise you and your whole rotten turnip family.",
        "You are the dumbest mop-headed fool I have ever met.",
        "People from {t} are all worthless cabbage heads.",
        "Only a total nincompoop could write such stupid rubbish.",
        "Get lost, you whining dishrag, you are a disgrace.",
        "Your opinion is garbage and so are you, you stupid turnip.",
        "I hope your stupid shoes fall apart, you pathetic pudding brain.",
    ),
    "zh": (
        "你这个糊涂萝卜，{t}没有人想听你胡说八道。",
        "闭嘴吧，你这块泡烂的饼干。",
        "你真是个没用的豆腐脑袋！",
        "喜欢这个的人全都是可怜的笨鹅。",
        "滚开，你这桶发馊的蛋糊。",
        "我讨厌你，也讨厌你们一家糊涂萝卜。",
        "你是我见过的最蠢的拖把头。",
        "{t}的人都是一文不值的白菜脑袋。",
        "只有大笨蛋才会写这种愚蠢的垃圾。",
        "快滚，你这块哭哭啼啼的抹布，真丢人。",
        "你的意见是垃圾，你也是个愚蠢的豆腐脑袋。",
    ),
}

_SUBJECT = {"advertisement": ADVERT, "adult": ADULT, "toxic": TOXIC}
_TITLE = {
    "advertisement": {"en": "Big sale on the {g} in {t}", "zh": "{g}大促销，限时特价"},
    "adult": {"en": "The velvet room of {t}: adults only", "zh": "{t}成人夜店，未满十八岁禁止入内"},
    "toxic": {"en": "An angry post about {t}", "zh": "关于{t}的气话"},
}


def bad_article(rng: random.Random, kind: str, language: str, paragraphs: int) -> Article:
    """An article of a kind that a classifier should reject: `advertisement`, `adult` or `toxic`.

    One sentence in about four is an ordinary one, so that the kinds are not told apart by every single sentence.
    """
    deck = Deck(rng, _SUBJECT[kind][language])
    plain = writer(rng, language)
    goods = rng.choice(GOODS[language])

    def fill(template: str) -> str:
        return template.format_map({"g": goods, "t": place_name(rng, language), "n": rng.randint(12, 80)})

    def sentence() -> str:
        return plain.sentence() if rng.random() < 0.22 else fill(deck.draw())

    joint = "" if language == "zh" else " "
    body = tuple(joint.join(sentence() for _ in range(rng.randint(3, 5))) for _ in range(paragraphs))
    return Article(fill(_TITLE[kind][language]), body, language, kind)


def garble(rng: random.Random, text: str, language: str) -> str:
    """Turn a paragraph into word salad: shuffled words (characters in Chinese), some doubled, some misspelt."""
    if language == "zh":
        pieces = [c for c in text if c not in "，。“”：、"]
    else:
        pieces = text.replace(".", "").replace(",", "").split()
    rng.shuffle(pieces)
    out: list[str] = []
    for piece in pieces:
        if language == "en" and rng.random() < 0.12 and len(piece) > 3:
            letters = list(piece)
            rng.shuffle(letters)
            piece = "".join(letters)
        out.extend([piece] * (2 if rng.random() < 0.15 else 1))
    return "".join(out) + "。" if language == "zh" else " ".join(out) + "."


def garbled_article(rng: random.Random, language: str, paragraphs: int) -> Article:
    """An article whose every paragraph is word salad."""
    source = writer(rng, language).article(paragraphs, paragraphs)
    body = tuple(garble(rng, p, language) for p in source.paragraphs)
    return Article(source.title, body, language, "garbled")


def repeated_article(rng: random.Random) -> Article:
    """Text that says the same line again and again, which the repetition rules catch."""
    w = writer(rng, "en")
    line = w.sentence()
    body = tuple(" ".join([line] * rng.randint(3, 5)) for _ in range(rng.randint(6, 10)))
    return Article(w.title(), body, "en", "repeated")


_SYMBOLS = ("###", "...", "|||", "~~~", "#", "$$ 00", "***")


def symbol_article(rng: random.Random) -> Article:
    """Text drowned in symbols, bullets and ellipses, which the symbol rules catch."""
    w = writer(rng, "en")
    words = [word for _ in range(12) for word in w.sentence().split()]
    body: list[str] = []
    for start in range(0, len(words) - 12, 12):
        chunk = words[start : start + 12]
        body.append("• " + " ".join(f"{word} {rng.choice(_SYMBOLS)}" for word in chunk))
    return Article(w.title(), tuple(body), "en", "symbols")
