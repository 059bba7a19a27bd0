"""The demo's block lists: invented domains and mild words, some of which occur on the bad pages."""

import random

ADULT_HOSTS = (
    "velvet-room-lounge.example",
    "midnight-cabaret.invalid",
    "grownups-gallery.example",
    "saucy-booths.test",
)
GAMBLING_HOSTS = ("lucky-turnip-casino.example", "golden-dice-hall.invalid", "spin-the-wheel-now.test")

_WORDS = """
velvet room|over-18 nightclub|adults only|naughty gallery|steamy late show|saucy|flirty hosts|private booths|
adult entertainment|
naughty costumes|muddle-headed turnip|pudding brain|soggy biscuit|noodle-brained|nincompoop|gravy hole|
stale custard|cabbage heads|
dishrag|mop-headed|rotten turnip|grumblesnout|wobblewit|fizzlepants|dunderwhelk|snortbucket|
blatherskite nights|lucky turnip casino|golden dice hall|double or nothing wheel|jackpot parlour|roulette parlour|
betting tips club|card shark lounge|gigglebritches|slobberchops|twaddlemonger|goosebrain|bogglehead|frumpwaffle|
成人夜店|成人图库|火辣|未满十八岁|私密照片|性感主持人|成人娱乐|糊涂萝卜|豆腐脑袋|白菜脑袋|
大笨蛋|拖把头|蛋糊|笨鹅|泡烂的饼干|
胡说八道|幸运赌场|金骰子大厅|赌博网站|转盘赌局
"""


def blocked_words() -> list[str]:
    """The words and phrases, one per entry."""
    return [w for w in (part.strip() for part in _WORDS.replace("\n", "").split("|")) if w]


def blocked_domains(rng: random.Random) -> list[str]:
    """About 200 invented domains on reserved top-level names, sorted."""
    first = (
        "naked-turnip",
        "lucky",
        "golden",
        "midnight",
        "spicy",
        "grownup",
        "jackpot",
        "velvet",
        "dice",
        "cheap-pills",
        "fake-watch",
        "roulette",
        "flirty",
        "casino",
        "lottery",
        "cabaret",
    )
    last = (
        "palace",
        "lounge",
        "spin",
        "gallery",
        "parlour",
        "club",
        "deals",
        "bets",
        "nights",
        "wheel",
        "cards",
        "zone",
    )
    top = ("example", "invalid", "test")
    domains = {f"{a}-{b}.{rng.choice(top)}" for a in first for b in last}
    return sorted(domains | set(ADULT_HOSTS) | set(GAMBLING_HOSTS))
