"""One pass over the code points of a batch of texts: the counts from which every rule's score is a quotient.

A line is a piece between line breaks with something visible in it, taken without the space around it. Lines with no
blank line between them form a paragraph. A token is a run of letters, digits and marks, or one Chinese character.
N-grams, lines and paragraphs are compared by 64-bit hashes.
"""

import numpy as np
from numba import njit

from ilm_ray.text import characters as c
from ilm_ray.text.jit import HASHES, INTS, MATRIX, POINTS, kernel

(VISIBLE, LETTERS, DIGITS, UPPERS, SYMBOLS, PUNCTUATION, HAN, TRADITIONAL, RARE, BROKEN, SEPARATORS) = range(11)
(HASH_SIGNS, URLS, COMMAS, MISPLACED, SENTENCES, UNPUNCTUATED) = range(11, 17)
(TOKENS, TOKEN_CHARS, WORDS_WITH_LETTERS, STOP_WORDS) = range(17, 21)
(LINES, WIDTH, SHORT, BROKEN_LINES, BULLETS, ELLIPSES, COMPLETE, MARKUP, BOILERPLATE) = range(21, 30)
(LINE_CHARS, COPIED_LINES, COPIED_LINE_CHARS, COPIED_PARAGRAPH_CHARS) = range(30, 34)
TOP = 34  # characters of the n-gram that covers most, n = 2, 3, 4
COPIED_5GRAMS, COPIED_10GRAMS = 37, 38  # characters inside n-grams seen before
COUNTS = 39

SHORT_LINE = 30  # columns (FineWeb: characters); a Chinese character takes two
LONG_RUN = 80  # tokens without punctuation between them
SEPARATOR_RUN = 4  # equal marks in a row
COPY_TOKENS = 3  # a shorter line is no copy of another: brackets, rules and single words come again in any text
LONGEST_PHRASE = 8  # tokens

_PRIME = np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_LINE_MARKUP, _LINE_BOILERPLATE = 1, 2


def hash_phrase(words: list[np.ndarray]) -> int:
    """The hash that `count` gives to these tokens (lower-case code points) in a row."""
    gram = 0
    for word in words:
        value = 0
        for point in word.tolist():
            value = (value ^ point) * int(_PRIME) % 2**64
        gram = (gram * int(_BASE) + (value ^ value >> 29) * int(_BASE)) % 2**64
    return gram


@njit
def _line(points, first, last, flags, lower, hashes, before, tokens, row):  # type: ignore[no-untyped-def]
    """Count one line; its tokens go to `hashes` and `before` from position `tokens` on.

    Returns (tokens so far, columns, kind, hash).
    """
    width = kind = run = since = 0
    url_end = first
    line = word = np.uint64(0)
    word_chars = letters = 0
    previous = before_that = np.uint32(10)
    p = np.uint32(c.SPACE)
    for i in range(first, last):
        point = points[i]
        f = flags[point]
        following = flags[points[i + 1]] if i + 1 < last else np.uint32(0)
        line = (line ^ np.uint64(point)) * _PRIME
        width += 2 if f & c.WIDE else 1
        run = run + 1 if point == previous else 1
        if f & c.SPACE == 0:
            row[VISIBLE] += 1
        if f & (c.WORD | c.HAN):
            row[LETTERS] += (f & c.LETTER) != 0
            row[DIGITS] += (f & c.DIGIT) != 0
            row[UPPERS] += (f & c.UPPER) != 0
            small = lower[point] if f & c.UPPER else point
            word = (word ^ np.uint64(small)) * _PRIME
            word_chars += 1
            letters += (f & c.LETTER) != 0
            if f & c.HAN:
                row[HAN] += 1
                row[TRADITIONAL] += (f & c.TRADITIONAL) != 0
                row[RARE] += (f & c.RARE) != 0
            if f & c.HAN or following & c.WORD == 0:
                hashes[tokens] = (word ^ (word >> np.uint64(29))) * _BASE
                before[tokens + 1] = before[tokens] + word_chars
                tokens += 1
                row[WORDS_WITH_LETTERS] += letters > 0
                since += 1
                if since > LONG_RUN:
                    row[UNPUNCTUATED] += since if since == LONG_RUN + 1 else 1
                word, word_chars, letters = np.uint64(0), 0, 0
            if i >= url_end and p & c.WORD == 0 and (point == 104 or point == 119):  # h, w
                url_end = _url_end(points, i, last)
                row[URLS] += url_end - i
        else:
            row[SYMBOLS] += (f & c.SYMBOL) != 0
            if f & (c.PUNCTUATION | c.SYMBOL) and run >= SEPARATOR_RUN:
                row[SEPARATORS] += run if run == SEPARATOR_RUN else 1
            if point == 35 or (point == 0x2026 and run == 1) or (point == 46 and run == 3):  # # … ...
                row[HASH_SIGNS] += 1
            if f & c.PUNCTUATION:
                row[PUNCTUATION] += 1
                if following & c.WORD == 0:
                    since = 0
                if f & c.COMMA:
                    row[COMMAS] += 1
                    # An opening quote may be a closing one in other languages: it counts before full-width marks only.
                    wrong = c.COMMA | c.FULL_MARK | c.OPENING if point > 0x3000 else c.COMMA
                    if p & c.SPACE or (p & wrong and point != previous):
                        row[MISPLACED] += 1
                if f & c.SENTENCE_END and following & (c.SENTENCE_END | c.WORD) == 0:
                    row[SENTENCES] += 1
            # { } </ /> =>
            if (
                point == 123
                or point == 125
                or (previous == 60 and point == 47)
                or (point == 62 and (previous == 47 or previous == 61))
            ):
                kind |= _LINE_MARKUP
        row[BROKEN] += _broken(point, previous, before_that, f, p, run)
        before_that, previous, p = previous, point, f
    if previous == 59 and before_that == 41:  # a line that ends in );
        kind |= _LINE_MARKUP
    row[COMPLETE] += (p & c.LINE_END) != 0
    row[ELLIPSES] += previous == 0x2026 or (previous == 46 and run >= 3)
    start, second = points[first], points[first + 1] if first + 1 < last else np.uint32(32)
    # - * + · are bullets before a space only
    hyphen = start == 45 or start == 42 or start == 43 or start == 183
    row[BULLETS] += (flags[start] & c.BULLET) != 0 or (hyphen and flags[second] & c.SPACE != 0)
    return tokens, width, kind, line


@njit
def _broken(point, previous, before_that, f, p, run):  # type: ignore[no-untyped-def]
    """Characters of broken encoding that end here: U+FFFD, private use, UTF-8 read as windows-1252, GBK leftovers."""
    if f & c.BROKEN:
        return 1
    if f & c.TAIL:
        if previous == 0xC2 or previous == 0xC3 or previous == 0xD0 or previous == 0xD1:  # Ã©, Ð°
            return 2
        if previous == 0xE2 and point == 0x20AC:  # â€
            return 2
        if p & c.TAIL and (before_that == 0xE2 or before_that == 0xE3 or 0xE4 <= before_that <= 0xE9):  # â€™, ä½
            return 1 if before_that == 0xE2 and previous == 0x20AC else 3
    if point == 0x62F7 and previous == 0x65A4 and before_that == 0x951F:  # 锟斤拷
        return 3
    if (point == 0x70EB or point == 0x5C6F) and run >= 3:  # 烫烫烫, 屯屯屯
        return 3 if run == 3 else 1
    return 0


@njit
def _url_end(points, start, last):  # type: ignore[no-untyped-def]
    """Where the address that begins here, with www., http:// or https://, ends; `start` where none begins."""
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
def _home(key, mask):  # type: ignore[no-untyped-def]
    return np.int64((key * _BASE) >> np.uint64(33)) & mask


@njit
def _place(key, table, mask, round_):  # type: ignore[no-untyped-def]
    """(slot of a key, was it there?); a slot of an older round is free."""
    keys, values, rounds = table
    at = _home(key, mask)
    while rounds[at] == round_:
        if keys[at] == key:
            return at, True
        at = (at + 1) & mask
    keys[at], values[at], rounds[at] = key, 0, round_
    return at, False


@njit
def _copies(hashes, chars, tokens, total, table, mask, round_):  # type: ignore[no-untyped-def]
    """(number, characters) of the pieces that were seen before."""
    pieces = copied = 0
    for i in range(total):
        if tokens[i] < COPY_TOKENS:
            continue
        _, seen = _place(hashes[i], table, mask, round_)
        if seen:
            pieces += 1
            copied += chars[i]
    return pieces, copied


@njit
def _top(grams, before, length, total, table, mask, round_):  # type: ignore[no-untyped-def]
    """Characters of the n-gram that comes twice or more and, times its count, has most of them."""
    values = table[1]
    most = 0
    for i in range(total):
        at, seen = _place(grams[i], table, mask, round_)
        values[at] += 1
        if seen:
            most = max(most, values[at] * (before[i + length] - before[i]))
    return most


@njit
def _covered(grams, before, length, total, table, mask, round_):  # type: ignore[no-untyped-def]
    """Characters inside n-grams that were seen before; each counted once."""
    chars = end = 0
    for i in range(total):
        _, seen = _place(grams[i], table, mask, round_)
        if seen:
            chars += before[i + length] - before[max(i, end)]
            end = i + length
    return chars


@njit
def _lines(points, at, end, flags, lower, tokens, lines, paragraphs, row):  # type: ignore[no-untyped-def]
    """Count all lines of a text. Fills (hashes, characters before, line) of tokens, (hashes, characters, tokens, kind)
    of lines and (hashes, characters, tokens) of paragraphs; returns how many there are of each."""
    hashes, before, token_line = tokens
    line_hash, line_chars, line_tokens, line_kind = lines
    paragraph_hash, paragraph_chars, paragraph_tokens = paragraphs
    found = count = paragraph = 0
    before[0] = 0
    blank = True
    open_line = 0  # columns of the line above if it may go on in this one, else 0
    after_comma = False
    while at < end:
        first = at
        while at < end and points[at] != 10:
            at += 1
        last = at
        at += 1
        while first < last and flags[points[first]] & c.SPACE:
            first += 1
        while first < last and flags[points[last - 1]] & c.SPACE:
            last -= 1
        if first == last:
            blank, open_line = True, 0
            continue
        start = flags[points[first]]
        if 0 < open_line < SHORT_LINE and (start & (c.LOWER | c.COMMA) or (after_comma and start & c.HAN)):
            row[BROKEN_LINES] += 1
        earlier = found
        found, width, line_kind[count], line_hash[count] = _line(
            points, first, last, flags, lower, hashes, before, found, row
        )
        token_line[earlier:found] = count
        line_chars[count], line_tokens[count] = last - first, found - earlier
        row[LINE_CHARS] += last - first
        row[WIDTH] += width
        row[SHORT] += width < SHORT_LINE
        ending = points[last - 1]
        after_comma = ending == 44 or ending == 0xFF0C or ending == 0x3001  # , ， 、
        open_line = width if after_comma or flags[ending] & (c.WORD | c.HAN) else 0
        if blank:
            paragraph_hash[paragraph], paragraph_chars[paragraph], paragraph_tokens[paragraph] = 0, 0, 0
            paragraph += 1
            blank = False
        paragraph_hash[paragraph - 1] = paragraph_hash[paragraph - 1] * _BASE + line_hash[count]
        paragraph_chars[paragraph - 1] += last - first
        paragraph_tokens[paragraph - 1] += found - earlier
        count += 1
    row[TOKENS], row[TOKEN_CHARS], row[LINES] = found, before[found], count
    return found, count, paragraph


@njit
def _ngrams(tokens, total, span, grams, line_kind, phrases, table, mask, round_, row):  # type: ignore[no-untyped-def]
    """Repeated n-grams, and phrases: they are n-grams too."""
    hashes, before, token_line = tokens
    phrase_keys, meanings = phrases
    known = len(phrase_keys) - 1
    grams[:total] = hashes[:total]
    for length in range(1, max(10 * span, LONGEST_PHRASE) + 1):
        if length > 1:
            total -= 1
            for i in range(total):
                grams[i] = grams[i] * _BASE + hashes[i + length - 1]
        if length <= LONGEST_PHRASE:
            for i in range(total):
                at = _home(grams[i], known)
                while meanings[at] >= 0 and phrase_keys[at] != grams[i]:
                    at = (at + 1) & known
                if meanings[at] > 0:
                    row[STOP_WORDS] |= meanings[at]
                elif meanings[at] == 0 and token_line[i] == token_line[i + length - 1]:
                    line_kind[token_line[i]] |= _LINE_BOILERPLATE
        n = length // span
        if length % span == 0 and 2 <= n <= 4:
            row[TOP + n - 2] = _top(grams, before, length, total, table, mask, round_ + length)
        elif length % span == 0 and (n == 5 or n == 10):
            at = COPIED_5GRAMS if n == 5 else COPIED_10GRAMS
            row[at] = _covered(grams, before, length, total, table, mask, round_ + length)


@njit
def _phrase_slots(phrases, meanings):  # type: ignore[no-untyped-def]
    """(hashes, meanings) by slot; a free slot means -1."""
    size = _power_of_two(4 * len(phrases))
    keys, slots = np.zeros(size, np.uint64), np.full(size, -1, np.int64)
    for i in range(len(phrases)):
        at = _home(phrases[i], size - 1)
        while slots[at] >= 0:
            at = (at + 1) & (size - 1)
        keys[at], slots[at] = phrases[i], meanings[i]
    return keys, slots


@njit
def _power_of_two(least):  # type: ignore[no-untyped-def]
    size = 16
    while size < least:
        size *= 2
    return size


@kernel(POINTS, INTS, INTS, POINTS, POINTS, HASHES, INTS, MATRIX)
def count(
    points: np.ndarray,
    borders: np.ndarray,
    spans: np.ndarray,
    flags: np.ndarray,
    lower: np.ndarray,
    phrases: np.ndarray,
    meanings: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill out [texts, COUNTS] (zeros) from the texts of `codepoints.flatten`.

    spans: tokens to a word, 1 or 2: an n-gram is that many times n tokens. flags and lower are of `characters`,
    phrases and meanings of `phrases`.
    """
    longest = 1
    for text in range(len(borders) - 1):
        longest = max(longest, borders[text + 1] - borders[text])
    tokens = (np.empty(longest, np.uint64), np.empty(longest + 1, np.int64), np.empty(longest, np.int64))
    numbers = np.empty((5, longest), np.int64)
    lines = (np.empty(longest, np.uint64), numbers[0], numbers[1], numbers[2])
    paragraphs = (np.empty(longest, np.uint64), numbers[3], numbers[4])
    grams = np.empty(longest, np.uint64)
    size = _power_of_two(2 * longest)
    table = (np.empty(size, np.uint64), np.empty(size, np.int64), np.zeros(size, np.int64))
    slots = _phrase_slots(phrases, meanings)
    for text in range(len(borders) - 1):
        row = out[text]
        found, line, paragraph = _lines(
            points, borders[text], borders[text + 1], flags, lower, tokens, lines, paragraphs, row
        )
        mask = _power_of_two(2 * max(found, line)) - 1
        round_ = text * 32 + 1  # each use of the table has a number of its own, so that nothing need be cleared
        row[COPIED_LINES], row[COPIED_LINE_CHARS] = _copies(*lines[:3], line, table, mask, round_)
        row[COPIED_PARAGRAPH_CHARS] = _copies(*paragraphs, paragraph, table, mask, round_ + 1)[1]
        _ngrams(tokens, found, spans[text], grams, lines[3], slots, table, mask, round_ + 1, row)
        for kind in lines[3][:line]:
            row[MARKUP] += (kind & _LINE_MARKUP) != 0
            row[BOILERPLATE] += (kind & _LINE_BOILERPLATE) != 0
