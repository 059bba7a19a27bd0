"""One pass over the code points of a batch of texts: counts, and the hashes of its tokens, lines and paragraphs.

A line is a piece between line breaks with something visible in it, taken without the space around it. Lines with no
blank line between them form a paragraph. A token is a run of letters and digits, or one Chinese character.

All that the kernel knows stands in this file: numba's cache looks at no other (`jit`).
"""

import numpy as np
from numba import njit

from ilm_ray.data.documents.jit import INTS, MATRIX, POINTS, WORDS, kernel

# What a code point is, as bits of a table (`characters.flags`).
IS_WORD = 1 << 0  # letters and digits of which words are made; a token is a run of them
IS_HAN = 1 << 1  # a token by itself
IS_SPACE = 1 << 2
IS_LETTER = 1 << 3
IS_DIGIT = 1 << 4
IS_UPPER = 1 << 5
IS_LOWER = 1 << 6
IS_PUNCTUATION = 1 << 7
IS_SYMBOL = 1 << 8  # visible, and neither letter, number, mark nor punctuation
IS_COMMA = 1 << 9  # never stands at the start of a line, after a space or after another mark
IS_FULL_MARK = 1 << 10  # full-width ! and ?
IS_OPENING = 1 << 11  # full-width opening brackets and quotes
IS_SENTENCE_END = 1 << 12
IS_LINE_END = 1 << 13  # a line that ends so is complete
IS_BULLET = 1 << 14
IS_WIDE = 1 << 15  # two columns on paper
IS_TRADITIONAL = 1 << 16  # Han of everyday traditional but not of simplified Chinese
IS_RARE = 1 << 17  # Han of neither
IS_BROKEN = 1 << 18  # U+FFFD and private use
IS_BOUND = 1 << 20  # Han that never begin a clause: they belong to the word before
IS_BOUND_NO_MORE = 1 << 21  # ... but where one of these follows
IS_TAIL = 1 << 19  # what a continuation byte of UTF-8 becomes where a page is read as windows-1252

# Columns of the result.
(VISIBLE, LETTERS, DIGITS, UPPERS, SYMBOLS, PUNCTUATION, HAN, TRADITIONAL, RARE, BROKEN, SEPARATORS) = range(11)
(HASH_SIGNS, URLS, COMMAS, MISPLACED, SENTENCES, UNPUNCTUATED, TOKENS, TOKEN_CHARS, LETTERED_TOKENS) = range(11, 20)
(LINES, LINE_CHARS, WIDTH, SHORT, BROKEN_LINES, BULLETS, ELLIPSES, FINISHED, MARKUP, PARAGRAPHS) = range(20, 30)
COUNTS = 30

SHORT_LINE = 30  # columns (FineWeb: characters); a Chinese character takes two
LONG_RUN = 80  # tokens without punctuation between them
SEPARATOR_RUN = 4  # equal marks in a row

_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def hash_token(points: np.ndarray) -> int:
    """The hash that `count` gives to a token: of its lower-case code points."""
    value = 0
    for point in points.tolist():
        value = (value ^ point) * int(_PRIME) % 2**64
    return (value ^ value >> 29) * int(_MIX) % 2**64


@njit
def _line(points, first, last, flags, lower, hashes, chars, tokens, row):  # type: ignore[no-untyped-def]
    """Count one line; its tokens go to `hashes` and `chars` from position `tokens` on.

    Returns (tokens so far, columns, hash).
    """
    width = run = since = finished = 0
    markup = False
    url_end = first
    line = word = np.uint64(0)
    word_chars = letters = 0
    previous = before_that = np.uint32(10)
    p = np.uint32(IS_SPACE)
    for i in range(first, last):
        point = points[i]
        f = flags[point]
        following = flags[points[i + 1]] if i + 1 < last else np.uint32(0)
        line = (line ^ np.uint64(point)) * _PRIME
        width += 2 if f & IS_WIDE else 1
        run = run + 1 if point == previous else 1
        if f & IS_SPACE == 0:
            row[VISIBLE] += 1
        if f & (IS_WORD | IS_HAN):
            row[LETTERS] += (f & IS_LETTER) != 0
            row[DIGITS] += (f & IS_DIGIT) != 0
            row[UPPERS] += (f & IS_UPPER) != 0
            small = lower[point] if f & IS_UPPER else point
            word = (word ^ np.uint64(small)) * _PRIME
            word_chars += 1
            letters += (f & IS_LETTER) != 0
            if f & IS_HAN:
                row[HAN] += 1
                row[TRADITIONAL] += (f & IS_TRADITIONAL) != 0
                row[RARE] += (f & IS_RARE) != 0
                row[MISPLACED] += p & IS_COMMA and f & IS_BOUND and following & IS_BOUND_NO_MORE == 0
            if f & IS_HAN or following & IS_WORD == 0:
                hashes[tokens] = (word ^ (word >> np.uint64(29))) * _MIX
                chars[tokens] = word_chars
                row[TOKEN_CHARS] += word_chars
                tokens += 1
                row[LETTERED_TOKENS] += letters > 0
                since += 1
                if since > LONG_RUN:
                    row[UNPUNCTUATED] += since if since == LONG_RUN + 1 else 1
                word, word_chars, letters = np.uint64(0), 0, 0
            if i >= url_end and p & IS_WORD == 0 and (point == 104 or point == 119):  # h, w
                url_end = _url_end(points, i, last)
                row[URLS] += url_end - i
        else:
            row[SYMBOLS] += (f & IS_SYMBOL) != 0
            if f & (IS_PUNCTUATION | IS_SYMBOL) and run >= SEPARATOR_RUN:
                row[SEPARATORS] += run if run == SEPARATOR_RUN else 1
            if point == 35 or (point == 0x2026 and run == 1) or (point == 46 and run == 3):  # # … ...
                row[HASH_SIGNS] += 1
            if f & IS_PUNCTUATION:
                row[PUNCTUATION] += 1
                if following & IS_WORD == 0:
                    since = 0
                if f & IS_COMMA:
                    row[COMMAS] += 1
                    # An opening quote may be a closing one in other languages: it counts before full-width marks only.
                    wrong = IS_COMMA | IS_FULL_MARK | IS_OPENING if point > 0x3000 else IS_COMMA
                    if p & IS_SPACE or (p & wrong and point != previous):
                        row[MISPLACED] += 1
                if f & IS_SENTENCE_END and following & (IS_SENTENCE_END | IS_WORD) == 0:
                    row[SENTENCES] += 1
                    if point > 0x2000 or following & IS_HAN == 0:  # else a dot of an address
                        finished = i + 1 - first
            # { } </ /> =>
            if (
                point == 123
                or point == 125
                or (previous == 60 and point == 47)
                or (point == 62 and (previous == 47 or previous == 61))
            ):
                markup = True
        row[BROKEN] += _broken(point, previous, before_that, f, p, run)
        before_that, previous, p = previous, point, f
    if previous == 59 and before_that == 41:  # a line that ends in );
        markup = True
    row[MARKUP] += markup
    row[FINISHED] += last - first if p & IS_LINE_END else finished
    row[ELLIPSES] += previous == 0x2026 or (previous == 46 and run >= 3)
    start, second = points[first], points[first + 1] if first + 1 < last else np.uint32(32)
    # - * + · are bullets before a space only
    hyphen = start == 45 or start == 42 or start == 43 or start == 183
    row[BULLETS] += (flags[start] & IS_BULLET) != 0 or (hyphen and flags[second] & IS_SPACE != 0)
    return tokens, width, line


@njit
def _broken(point, previous, before_that, f, p, run):  # type: ignore[no-untyped-def]
    """Characters of broken encoding that end here: U+FFFD, private use, UTF-8 read as windows-1252, GBK leftovers."""
    if f & IS_BROKEN:
        return 1
    if f & IS_TAIL:
        if previous == 0xC2 or previous == 0xC3 or previous == 0xD0 or previous == 0xD1:  # Ã©, Ð°
            return 2
        if previous == 0xE2 and point == 0x20AC:  # â€
            return 2
        if p & IS_TAIL and (before_that == 0xE2 or before_that == 0xE3 or 0xE4 <= before_that <= 0xE9):  # â€™, ä½
            return 1 if before_that == 0xE2 and previous == 0x20AC else 3
    if point == 0x62F7 and previous == 0x65A4 and before_that == 0x951F:  # 锟斤拷
        return 3
    if (point == 0x70EB or point == 0x5C6F) and run >= 3:  # 烫烫烫, 屯屯屯
        return 3 if run == 3 else 1
    return 0


@njit
def _url_end(points, start, last):  # type: ignore[no-untyped-def]
    """End of the address that begins at `start` with www., http:// or https://; `start` where none begins."""
    head = start
    if points[start] == 119:
        if last - start > 4 and points[start + 1] == 119 and points[start + 2] == 119 and points[start + 3] == 46:
            head = start + 4
    elif last - start > 7 and points[start + 1] == 116 and points[start + 2] == 116 and points[start + 3] == 112:
        colon = start + 5 if points[start + 4] == 115 else start + 4
        if points[colon] == 58 and points[colon + 1] == 47 and points[colon + 2] == 47:
            head = colon + 3
    at = head
    while head > start and at < last and 33 <= points[at] <= 126:
        at += 1
    return at if at > head else start


@njit
def _lines(points, at, end, flags, lower, hashes, numbers, row):  # type: ignore[no-untyped-def]
    """Count all lines of a text, and fill its slices of the pieces."""
    token_hash, line_hash, paragraph_hash = hashes
    token_chars, token_line, line_chars, line_tokens, paragraph_chars, paragraph_tokens = numbers
    tokens = count = paragraph = 0
    blank = True
    open_line = 0  # columns of the line above if it may go on in this one, else 0
    after_comma = False
    while at < end:
        first = at
        while at < end and points[at] != 10:
            at += 1
        last = at
        at += 1
        while first < last and flags[points[first]] & IS_SPACE:
            first += 1
        while first < last and flags[points[last - 1]] & IS_SPACE:
            last -= 1
        if first == last:
            blank, open_line = True, 0
            continue
        start = flags[points[first]]
        if 0 < open_line < SHORT_LINE and (start & (IS_LOWER | IS_COMMA) or (after_comma and start & IS_HAN)):
            row[BROKEN_LINES] += 1
        earlier = tokens
        tokens, width, line_hash[count] = _line(points, first, last, flags, lower, token_hash, token_chars, tokens, row)
        token_line[earlier:tokens] = count
        line_chars[count], line_tokens[count] = last - first, tokens - earlier
        row[LINE_CHARS] += last - first
        row[WIDTH] += width
        row[SHORT] += width < SHORT_LINE
        ending = points[last - 1]
        after_comma = ending == 44 or ending == 0xFF0C or ending == 0x3001  # , ， 、
        open_line = width if after_comma or flags[ending] & (IS_WORD | IS_HAN) else 0
        if blank:
            paragraph_hash[paragraph], paragraph_chars[paragraph], paragraph_tokens[paragraph] = 0, 0, 0
            paragraph += 1
            blank = False
        paragraph_hash[paragraph - 1] = paragraph_hash[paragraph - 1] * _MIX + line_hash[count]
        paragraph_chars[paragraph - 1] += last - first
        paragraph_tokens[paragraph - 1] += tokens - earlier
        count += 1
    row[TOKENS], row[LINES], row[PARAGRAPHS] = tokens, count, paragraph


@kernel(POINTS, INTS, POINTS, POINTS, MATRIX, WORDS, MATRIX)
def count(
    points: np.ndarray,
    borders: np.ndarray,
    flags: np.ndarray,
    lower: np.ndarray,
    out: np.ndarray,
    hashes: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """Fill out [texts, COUNTS] (zeros) from the texts of `codepoints.flatten`, and the pieces, from borders[text] on.

    hashes [3, points]: of tokens, lines, paragraphs. numbers [6, points]: characters of each token and its line, then
    characters and tokens of each line, then of each paragraph. flags and lower are of `characters`.
    """
    for text in range(len(borders) - 1):
        at, end = borders[text], borders[text + 1]
        h, n = hashes[:, at:end], numbers[:, at:end]
        _lines(points, at, end, flags, lower, (h[0], h[1], h[2]), (n[0], n[1], n[2], n[3], n[4], n[5]), out[text])
