"""Marker-controlled watershed: compiled kernels.

The definition is a priority flood: pixels wait in order of (value, first in first out), a pixel takes its label from
the neighbour that queues it, and one that lies below that neighbour waits as if it were level with it. Pieces of the
mask do not interact, so each is flooded alone, in a small window that stays in cache, and a piece with one label needs
no flood at all.

The queue is one list per level, a level being a short interval of values. The list of a level whose pixels all have
the same value is already in order; any other goes through a binary heap once its level is reached, so that labels
never hang on how values were cut into levels.
"""

from __future__ import annotations

from collections import namedtuple

import numba as nb
import numpy as np

from cellkit.core.compile import kernel
from cellkit.formats.pieces import by_piece, pieces

FIELD = nb.types.Array(nb.float32, 2, "C", readonly=True)
LABELS = nb.types.Array(nb.int32, 2, "C", readonly=True)
MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)

OUTSIDE = np.uint32(0xFFFFFFFF)
SEVERAL = -1
LARGEST = np.float32(1e38)
MOST_LEVELS = 65536

# A pixel of the window is three words, so that one line of cache holds all of it: its label (0 while it has none), its
# value and the pixel after it in its list (0 at the end). Pixels are numbered by their first word; unsigned numbers
# spare numba the test for negative ones.
WIDE = np.uint32(3)
VALUE, AFTER = np.uint32(1), np.uint32(2)

Queue = namedtuple("Queue", "cells values last mixed keys waiting")
"""`cells` and `values`, the same memory, hold the window and then a head for the list of each level; `last` and `mixed`
are the end of each list and whether its values differ; `keys` and `waiting` are the heap, sorting keys and pixels."""


@nb.njit
def _seed_labels(runs, piece, count, seeds):
    """Return, for each piece, the one label its seeds have, 0 where it has none, or `SEVERAL`."""
    found = np.zeros(count, np.int32)
    for i in range(len(piece)):
        k = piece[i]
        if found[k] == SEVERAL:
            continue
        row = seeds[runs[i, 0]]
        for x in range(runs[i, 1], runs[i, 2]):
            if row[x] > 0 and row[x] != found[k]:
                if found[k] != 0:
                    found[k] = SEVERAL
                    break
                found[k] = row[x]
    return found


@nb.njit
def _load(runs, box, field, seeds, sign, queue):
    """Copy a piece into the window, its seeds labelled and noted in `queue.waiting`.

    Returns its lowest and highest value, the number of seeds and the area.
    """
    cells, values = queue.cells, queue.values
    stride = box[3] - box[1] + 2
    low, high = LARGEST, -LARGEST
    count = area = 0
    for i in range(len(runs)):
        y, start, stop = runs[i, 0], runs[i, 1], runs[i, 2]
        at = np.uintp(WIDE * ((y - box[0] + 1) * stride + 1 + start - box[1]))
        row, seed_row = field[y], seeds[y]
        area += stop - start
        for x in range(np.uintp(start), np.uintp(stop)):
            # Adding 0 turns -0 into 0; an infinity, which has no level, counts as the largest number.
            v = np.float32(sign * row[x] + np.float32(0))
            v = v if v >= -LARGEST else -LARGEST
            v = v if v <= LARGEST else LARGEST
            seed = seed_row[x]
            cells[at] = max(seed, 0)
            values[at + VALUE] = v
            cells[at + AFTER] = 0
            if seed > 0:
                queue.waiting[count] = at
                count += 1
            at += WIDE
            low = v if v < low else low
            high = v if v > high else high
    return low, high, count, area


@nb.njit
def _unload(runs, box, cells, out):
    """Copy a piece's labels out of the window and leave the window as it was found."""
    stride = box[3] - box[1] + 2
    for i in range(len(runs)):
        y, start, stop = runs[i, 0], runs[i, 1], runs[i, 2]
        at = np.uintp(WIDE * ((y - box[0] + 1) * stride + 1 + start - box[1]))
        row = out[y]
        for x in range(np.uintp(start), np.uintp(stop)):
            row[x] = cells[at]
            cells[at] = OUTSIDE
            at += WIDE


@nb.njit(inline="always")
def _append(level, i, queue):
    """Put a pixel at the end of the list of its level."""
    cells, values = queue.cells, queue.values
    before = queue.last[level]
    # The head of a list holds NaN, which is neither below nor above.
    queue.mixed[level] |= (values[before + VALUE] < values[i + VALUE]) | (values[before + VALUE] > values[i + VALUE])
    cells[before + AFTER] = i
    queue.last[level] = i


@nb.njit(inline="always")
def _push(i, n, age, queue):
    """Add a pixel to the heap of `n`; the order is that of float32 bits, then of age."""
    keys, waiting = queue.keys, queue.waiting
    bits = np.int64(np.int32(queue.cells[i + VALUE]))
    key = ((bits if bits >= 0 else bits ^ 0x7FFFFFFF) << 32) | age
    at = n
    while at > 0:
        up = (at - 1) >> 1
        if keys[up] <= key:
            break
        keys[at], waiting[at] = keys[up], waiting[up]
        at = up
    keys[at], waiting[at] = key, i


@nb.njit(inline="always")
def _pop(n, queue):
    """Remove the root of a heap of which `n` stay."""
    keys, waiting = queue.keys, queue.waiting
    key, last = keys[n], waiting[n]
    at, down = 0, 1
    while down < n:
        if down + 1 < n and keys[down + 1] < keys[down]:
            down += 1
        if keys[down] >= key:
            break
        keys[at], waiting[at] = keys[down], waiting[down]
        at, down = down, 2 * down + 1
    keys[at], waiting[at] = key, last


@nb.njit
def _fill_heap(head, queue):
    """Move a list into the empty heap; return its length."""
    n = 0
    i = queue.cells[head + AFTER]
    while i != 0:
        _push(i, n, n, queue)
        n += 1
        i = queue.cells[i + AFTER]
    return n


@nb.njit
def _flood(stride, low, scale, levels, heads, queue):
    """Flood one piece whose seeds wait in the lists of their levels."""
    cells, values = queue.cells, queue.values
    steps = np.array((-stride, -1, 1, stride)) * WIDE
    fresh = np.empty(4, np.uint32)
    n = age = 0  # entries in the heap, and all there have been since it was last filled
    level = -1
    # The chain: pixels of the value that is being flooded, all younger than those of that value in the heap.
    chain_value = np.float32(np.nan)
    done = np.uint32(0)  # the pixel of the chain that was flooded last
    while True:
        ahead = cells[done + AFTER]
        if n > 0 and (ahead == 0 or values[queue.waiting[0] + VALUE] <= chain_value):
            i = queue.waiting[0]
            n -= 1
            _pop(n, queue)
            if ahead == 0 and values[i + VALUE] != chain_value:
                chain_value = values[i + VALUE]
                done = queue.last[level] = i
                cells[i + AFTER] = 0
        elif ahead != 0:
            i = done = ahead
        else:
            level += 1
            while level < levels and cells[np.uintp(heads + WIDE * level + AFTER)] == 0:
                level += 1
            if level >= levels:
                return
            done = np.uint32(heads + WIDE * level)
            if queue.mixed[level]:
                n = age = _fill_heap(done, queue)
                done = np.uint32(0)
            else:
                chain_value = values[cells[done + AFTER] + VALUE]
            continue
        own, floor = cells[i], values[i + VALUE]
        count = np.uintp(0)
        for s in range(4):
            j = np.uint32(i + steps[np.uintp(s)])
            fresh[count] = j
            count += np.uintp(cells[j] == 0)
        for s in range(count):
            j = fresh[s]
            cells[j] = own
            v = max(values[j + VALUE], floor)
            values[j + VALUE] = v
            to = np.int64((v - low) * scale)
            if to > level or v == chain_value:
                _append(np.uintp(to), j, queue)
            else:
                _push(j, n, age, queue)
                n += 1
                age += 1


@nb.njit
def _flood_piece(runs, box, field, seeds, sign, queue, heads):
    """Flood one piece in the window; its labels are left there."""
    low, high, count, area = _load(runs, box, field, seeds, sign, queue)
    levels = min(MOST_LEVELS, area)
    scale = np.float32((levels - 1) / (np.float64(high) - low)) if high > low else np.float32(0)
    scale = min(scale, LARGEST)
    for level in range(levels):
        head = np.uint32(heads + level * WIDE)
        queue.last[level] = head
        queue.mixed[level] = False
        queue.values[head + VALUE] = np.nan
        queue.cells[head + AFTER] = 0
    for i in queue.waiting[:count]:
        _append(np.uintp(np.int64((queue.values[i + VALUE] - low) * scale)), i, queue)
    _flood(np.int64(box[3] - box[1] + 2), low, scale, levels, heads, queue)


@kernel(nb.int32[:, ::1](FIELD, LABELS, MASK, nb.float32))
def flood(field, seeds, mask, sign):
    """Flood ``sign * field`` from `seeds` within `mask`, lowest value first; see the head of this file."""
    out = np.zeros(mask.shape, np.int32)
    runs, piece, count = pieces(mask, 4)
    found = _seed_labels(runs, piece, count, seeds)
    for i in range(len(piece)):
        if found[piece[i]] > 0:
            out[runs[i, 0], runs[i, 1] : runs[i, 2]] = found[piece[i]]
    runs, offsets, box = by_piece(runs, piece, count)
    size = 0
    for k in range(count):
        if found[k] == SEVERAL:
            size = max(size, (box[k, 2] - box[k, 0] + 2) * np.int64(box[k, 3] - box[k, 1] + 2))
    if size == 0:
        return out
    room = min(MOST_LEVELS, size)
    cells = np.full((size + room) * WIDE, OUTSIDE, np.uint32)
    cells[AFTER] = 0
    last, mixed = np.empty(room, np.uint32), np.empty(room, np.bool_)
    queue = Queue(cells, cells.view(np.float32), last, mixed, np.empty(size, np.int64), np.empty(size, np.uint32))
    for k in range(count):
        if found[k] == SEVERAL:
            own = runs[offsets[k] : offsets[k + 1]]
            _flood_piece(own, box[k], field, seeds, sign, queue, size * WIDE)
            _unload(own, box[k], cells, out)
    return out
