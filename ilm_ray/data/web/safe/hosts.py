"""Host names as 64-bit hashes: compiled scans of list files and URLs, and the table that both meet in.

A name is hashed from its last character to its first, so one pass over a host meets the hash of every domain that it
lies under. Hashes sit in a table with open addressing; 64 bits make a false hit among 13 million names a matter of one
look-up in 10^12. A host that is not plain ASCII is left to Python (`blocklist.py`), which has the same rules in full.
"""

import numpy as np
from numba import njit, types

_POINTS = types.Array(types.uint32, 1, "C", readonly=True)
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_TABLE = types.Array(types.uint64, 1, "C", readonly=True)
_HASHES = types.Array(types.uint64, 1, "C")
_PLACES = types.Array(types.int64, 1, "C")
_BORDERS = types.Array(types.int64, 1, "C", readonly=True)

NONE, ODD = -1, -2  # a URL without a blocked domain; one that needs Python
_SEED = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0xD6E8FEB86659FD93)
_END = np.uint64(0xA0761D6478BD642F)
_SHIFT = np.uint64(32)
_DOT, _DASH, _UNDERSCORE, _SLASH, _COLON, _AT = 46, 45, 95, 47, 58, 64


@njit("uint64(uint64, uint32)", cache=True)
def _mixed(state, point):  # type: ignore[no-untyped-def]
    if 65 <= point <= 90:
        point += 32
    state = (state ^ np.uint64(point)) * _STEP
    return state ^ (state >> _SHIFT)


@njit("uint64(uint64)", cache=True)
def _finished(state):  # type: ignore[no-untyped-def]
    key = state * _END
    key ^= key >> _SHIFT
    return key if key else _END  # zero marks a free slot


@njit("int64(uint64, int64)", cache=True)
def _slot(key, slots):  # type: ignore[no-untyped-def]
    return np.int64(((key >> _SHIFT) * np.uint64(slots)) >> _SHIFT)


@njit(types.boolean(_TABLE, types.uint64), cache=True)
def _holds(table, key):  # type: ignore[no-untyped-def]
    place = _slot(key, len(table))
    while table[place]:
        if table[place] == key:
            return True
        place += 1
        if place == len(table):
            place = 0
    return False


@njit(types.uint64(_POINTS), cache=True)
def host_key(points):  # type: ignore[no-untyped-def]
    """The hash of a whole host name (uint32 code points)."""
    state = _SEED
    for i in range(len(points) - 1, -1, -1):
        state = _mixed(state, points[i])
    return _finished(state)


@njit(types.boolean(_TABLE, types.uint64), cache=True)
def holds(table, key):  # type: ignore[no-untyped-def]
    """Whether the table holds `key`."""
    return _holds(table, key)


@njit(types.void(_TABLE, _HASHES), cache=True)
def fill(keys, table):  # type: ignore[no-untyped-def]
    """Put distinct keys into a table of zeros with more slots than keys. The order of the keys decides its bytes."""
    for key in keys:
        place = _slot(key, len(table))
        while table[place]:
            place += 1
            if place == len(table):
                place = 0
        table[place] = key


@njit("boolean(uint32)", cache=True)
def _plain(point):  # type: ignore[no-untyped-def]
    return 97 <= point <= 122 or 48 <= point <= 57 or 65 <= point <= 90 or point in (_DOT, _DASH, _UNDERSCORE)


@njit(types.UniTuple(types.int64, 2)(_BYTES, _HASHES, _PLACES), cache=True)
def scan_lines(block, keys, odd):  # type: ignore[no-untyped-def]
    """Hash the plain lines of a block (uint8, whole lines): one name, or an IPv4 address and one name (hosts format).

    Fills `keys` and, with begin and end of every line that is anything else, `odd`; returns how much of each.
    """
    key_count = strange = begin = 0
    while begin < len(block):
        end = begin
        while end < len(block) and block[end] != 10:
            end += 1
        first, last = begin, end
        while last > first and block[last - 1] <= 32:
            last -= 1
        while first < last and block[first] <= 32:
            first += 1
        i = first
        while i < last and (48 <= block[i] <= 57 or block[i] == _DOT):
            i += 1
        if i > first and i < last and block[i] <= 32:
            while block[i] <= 32:
                i += 1
            first = i
        while last > first + 1 and block[last - 1] == _DOT:
            last -= 1
        dots, plain = 0, True
        for i in range(first, last):
            plain &= _plain(block[i])
            dots += block[i] == _DOT
        if last > first:
            if plain and dots and block[first] != _DOT:
                state = _SEED
                for i in range(last - 1, first - 1, -1):
                    state = _mixed(state, block[i])
                keys[key_count] = _finished(state)
                key_count += 1
            else:
                odd[strange], odd[strange + 1] = begin, end
                strange += 2
        begin = end + 1
    return key_count, strange


@njit(types.UniTuple(types.int64, 2)(_POINTS, types.int64, types.int64), cache=True)
def _host(points, begin, end):  # type: ignore[no-untyped-def]
    """Begin and end of a URL's host; (NONE, NONE) where it has none, (ODD, ODD) where Python must look."""
    at = begin
    if at < end and points[at] <= 32:
        return ODD, ODD
    if at < end and points[at] != _SLASH:
        if not (97 <= points[at] | 32 <= 122):
            return NONE, NONE
        while at < end and points[at] != _COLON:
            point = points[at]
            if point < 32:
                return ODD, ODD
            if not ((_plain(point) and point != _UNDERSCORE) or point == 43):
                return NONE, NONE
            at += 1
        at += 1
    if at + 2 > end:
        return NONE, NONE
    for i in range(at, at + 2):
        if points[i] != _SLASH:
            return (ODD, ODD) if points[i] < 32 or points[i] == 92 else (NONE, NONE)
    at += 2
    first, last = at, NONE
    while at < end:
        point = points[at]
        if point == _SLASH or point == 63 or point == 35 or point == 92:
            break
        if point == _AT:
            first, last = at + 1, NONE
        elif point == _COLON:
            if last == NONE:
                last = at
        elif point <= 32 or point > 126 or point == 37 or point == 91 or point == 93:
            return ODD, ODD
        at += 1
    if last == NONE:
        last = at
    while last > first and points[last - 1] == _DOT:
        last -= 1
    while last > first and points[first] == _DOT:
        first += 1
    return (first, last) if last > first else (NONE, NONE)


@njit(types.void(_POINTS, _BORDERS, _TABLE, _PLACES, _PLACES), cache=True)
def find_blocked(points, borders, table, first, last):  # type: ignore[no-untyped-def]
    """Writes the place in `points` of each URL's longest blocked domain into first and last [n]; see NONE and ODD.

    points: code points of n URLs one after the other; borders: int64 [n + 1]. An IPv4 address matches only as a whole.
    """
    for url in range(len(borders) - 1):
        begin, end = _host(points, borders[url], borders[url + 1])
        first[url], last[url] = min(begin, NONE), end
        if begin < 0:
            continue
        address = True
        for i in range(begin, end):
            address &= 48 <= points[i] <= 57 or points[i] == _DOT
        state = _SEED
        for i in range(end - 1, begin - 1, -1):
            if points[i] == _DOT and not address and _holds(table, _finished(state)):
                first[url] = i + 1
            state = _mixed(state, points[i])
        if _holds(table, _finished(state)):
            first[url] = begin
