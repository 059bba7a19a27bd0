"""A small benchmark of our own making, in the forms of GSM8K, MMLU and CMMLU. The demo crawl holds three of its items.

One of the three is there as it is, one with another name and number and a word less, one with its choices labelled.
"""

import csv
import io
import json

PROBLEMS = (
    (
        "Odile bakes 14 trays of ginger biscuits with 9 biscuits on each tray. She keeps 26 "
        "biscuits for her neighbours "
        "and packs the rest into tins of 10. How many tins does she fill?",
        "Odile bakes 14 * 9 = <<14*9=126>>126 biscuits.\nAfter keeping some she has 126 - 26 = "
        "<<126-26=100>>100 biscuits."
        "\nShe fills 100 / 10 = <<100/10=10>>10 tins.\n#### 10",
    ),
    (
        "A ferry carries 35 cars on every crossing and makes 6 crossings a day. On Friday the last "
        "crossing was cancelled "
        "because of fog. How many cars could the ferry carry on Friday?",
        "On Friday the ferry made 6 - 1 = <<6-1=5>>5 crossings.\nIt could carry 35 * 5 = "
        "<<35*5=175>>175 cars.\n#### 175",
    ),
    (
        "Bram reads 18 pages of a travel book before breakfast and twice as many pages after dinner. The book has 270 "
        "pages. How many days does Bram need to finish it?",
        "After dinner Bram reads 18 * 2 = <<18*2=36>>36 pages.\nIn a day he reads 18 + 36 = <<18+36=54>>54 pages.\n"
        "He needs 270 / 54 = <<270/54=5>>5 days.\n#### 5",
    ),
    (
        "A gardener plants 4 rows of cabbages with 12 plants in each row. Rabbits eat a quarter of "
        "the plants, and frost "
        "kills 5 more. How many cabbages are left for the market?",
        "The gardener plants 4 * 12 = <<4*12=48>>48 cabbages.\nRabbits eat 48 / 4 = <<48/4=12>>12 of them.\n"
        "There are 48 - 12 - 5 = <<48-12-5=31>>31 cabbages left.\n#### 31",
    ),
    (
        "Ilse repairs clocks. A wall clock takes her 40 minutes and a pocket watch takes her 25 minutes. Last week she "
        "repaired 6 wall clocks and 12 pocket watches. How many hours did she work?",
        "The wall clocks took 6 * 40 = <<6*40=240>>240 minutes.\nThe watches took 12 * 25 = <<12*25=300>>300 minutes.\n"
        "She worked (240 + 300) / 60 = <<(240+300)/60=9>>9 hours.\n#### 9",
    ),
    (
        "A bus leaves the depot with 23 passengers. At the mill 9 people get off and 14 get on, and "
        "at the harbour half "
        "of the passengers leave. How many passengers remain on the bus?",
        "After the mill there are 23 - 9 + 14 = <<23-9+14=28>>28 passengers.\n"
        "After the harbour 28 / 2 = <<28/2=14>>14 remain.\n#### 14",
    ),
    (
        "Pavel saves 15 crowns every week for a kite that costs 180 crowns. His aunt gives him 45 "
        "crowns for his birthday."
        " After how many weeks of saving can he buy the kite?",
        "Pavel has to save 180 - 45 = <<180-45=135>>135 crowns.\nThat takes 135 / 15 = <<135/15=9>>9 weeks.\n#### 9",
    ),
)

QUESTIONS = (
    (
        "Which organ of a river mussel filters food particles from the water that it lives in?",
        "The foot",
        "The gills",
        "The mantle edge",
        "The shell hinge",
        "B",
    ),
    (
        "A clerk copies a ledger line by line and skips every line that she has copied before. What does she produce?",
        "A sorted ledger",
        "A ledger without repeated lines",
        "An index of the ledger",
        "A shorter ledger in random order",
        "B",
    ),
    (
        "Which of these changes makes a pendulum clock in a church tower run slower?",
        "A longer pendulum rod",
        "A heavier bob",
        "A smaller first swing",
        "A lighter dial hand",
        "A",
    ),
    (
        "Why did medieval glass makers add the ash of beech wood to sand from the river?",
        "To colour the glass blue",
        "To lower the heat at which the sand melts",
        "To make the panes bend",
        "To keep bubbles inside",
        "B",
    ),
    (
        "In a small village every household sells eggs at one price. A new household offers them "
        "cheaper. What follows first?",
        "Demand moves to the new household",
        "All hens lay more eggs",
        "The village prints money",
        "The other households buy more hens",
        "A",
    ),
    (
        "Which statement about the tides in a narrow bay is supported by simple observation of the shore?",
        "They follow the moon with a delay",
        "They depend on the colour of the sand",
        "They stop in winter",
        "They come once a month",
        "A",
    ),
    (
        "What does a cartographer lose by drawing the round earth on a flat sheet with straight meridians?",
        "True areas far from the equator",
        "The names of towns",
        "The order of the continents",
        "The direction of north",
        "A",
    ),
)

CHINESE = (
    (
        "木匠在做榫卯时先把木料晾上两年，主要是为了防止什么",
        "木料日后收缩开裂",
        "木料颜色变浅",
        "工具生锈",
        "木屑太多",
        "A",
    ),
    (
        "山区的梯田沿着等高线修筑，最直接的好处是什么",
        "方便行船",
        "减少雨水冲走泥土",
        "增加日照时间",
        "吸引候鸟停留",
        "B",
    ),
    (
        "古代驿站之间的距离大多相近，这主要取决于什么",
        "马匹一程能走的路",
        "沿途茶馆的数量",
        "官员的品级高低",
        "河流的宽窄",
        "A",
    ),
    (
        "做豆腐时往豆浆里加少量盐卤，起到的作用是什么",
        "增加甜味",
        "使蛋白质凝结成块",
        "去掉豆子的颜色",
        "降低锅里的温度",
        "B",
    ),
    (
        "灯塔的光要经过一圈玻璃棱镜，目的是什么",
        "让光向远处集中",
        "使灯油燃烧更慢",
        "挡住海上的大风",
        "给渔民指示时间",
        "A",
    ),
    (
        "图书馆把旧报纸放在恒温恒湿的房间里，是因为纸张最怕什么",
        "温度湿度反复变化",
        "书架颜色太深",
        "读者人数太少",
        "房间过于安静",
        "A",
    ),
)

LEAKED = (
    PROBLEMS[0][0],
    # PROBLEMS[2] with another name and number, and without a word.
    "Joris reads 18 pages of a travel book before breakfast and twice as many after dinner. The "
    "book has 324 pages. How "
    "many days does Joris need to finish it?",
)
LEAKED_CHINESE = f"{CHINESE[1][0]}？A. {CHINESE[1][1]} B. {CHINESE[1][2]} C. {CHINESE[1][3]} D. {CHINESE[1][4]}。"


def files() -> dict[str, bytes]:
    """The benchmark files by name."""
    problems = "".join(
        json.dumps({"question": question, "answer": answer}, ensure_ascii=False) + "\n" for question, answer in PROBLEMS
    )
    header = ("", "Question", "A", "B", "C", "D", "Answer")
    return {
        "word_problems.jsonl": problems.encode(),
        "general_questions.csv": _csv(QUESTIONS),
        "chinese_questions.csv": _csv((header, *((str(n), *row) for n, row in enumerate(CHINESE)))),
    }


def _csv(rows: tuple[tuple[str, ...], ...]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()
