"""Suppression and fusion of boxes: compiled kernels.

Boxes are looked up by the cells of a coarse grid that they lie on, so that each is compared with its neighbours alone.
Which cells a box lies on rises with its sides, so two boxes that share a point share the cell of that point.
"""

from __future__ import annotations

import heapq

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

_F4 = nb.types.Array(nb.float32, 2, "C", readonly=True)
_F8 = nb.types.Array(nb.float64, 1, "C", readonly=True)
_I8 = nb.types.Array(nb.int64, 1, "C", readonly=True)
_CELLS = nb.types.Array(nb.int64, 2, "C", readonly=True)


def cells_of(xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells that finite boxes lie on, int64 (n, 4) as first column and row, last column and row; the grid.

    The grid is float64: x and y of its origin, the side of a cell, and its columns and rows. Cells are about as large
    as boxes, and as much larger as it takes that boxes do not lie on more than a few cells on average.
    """
    xyxy = xyxy.astype(np.float64)
    low = xyxy[:, :2].min(axis=0) if len(xyxy) else np.zeros(2)
    extent = xyxy.max() - low.min() if len(xyxy) else 1.0
    side = max(float(np.median(xyxy[:, 2:] - xyxy[:, :2])) if len(xyxy) else 1.0, extent / 2**20, 1e-6)
    while True:
        cells = np.floor((xyxy - np.tile(low, 2)) / side).astype(np.int64)
        size = cells.reshape(-1, 2).max(axis=0, initial=0) + 1
        covered = (np.maximum(cells[:, 2:] - cells[:, :2], 0) + 1).astype(np.float64).prod(axis=1).sum()
        if float(size[0]) * float(size[1]) <= 4 * len(xyxy) + 1024 and covered <= 8 * len(xyxy) + 1024:
            break
        side *= 2
    cells[:, 2:] = np.maximum(cells[:, 2:], cells[:, :2])  # even where a box ends before it begins
    return cells, np.array([*low, side, *size], np.float64)


@nb.njit
def _iou(a, b):
    """Return intersection over union of two boxes, in their own type."""
    zero = a[0] - a[0]
    common = max(zero, min(a[2], b[2]) - max(a[0], b[0])) * max(zero, min(a[3], b[3]) - max(a[1], b[1]))
    if common <= zero:
        return zero
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


@kernel(nb.boolean[::1](_F4, _I8, _I8, _CELLS, _F8, nb.float64))
def keep_best(xyxy, classes, order, cells, grid, most):
    """Return which boxes no better one that is kept overlaps by more than `most`; `order` is from best to worst."""
    columns = np.int64(grid[3])
    head = np.full(columns * np.int64(grid[4]), -1, np.int64)
    room = np.int64(0)
    for i in range(len(xyxy)):
        room += (cells[i, 2] - cells[i, 0] + 1) * (cells[i, 3] - cells[i, 1] + 1)
    after, item = np.empty(room, np.int64), np.empty(room, np.int64)
    kept = np.zeros(len(xyxy), np.bool_)
    used = 0
    for i in order:
        free = True
        for row in range(cells[i, 1], cells[i, 3] + 1):
            for column in range(cells[i, 0], cells[i, 2] + 1):
                entry = head[row * columns + column]
                while free and entry >= 0:
                    j = item[entry]
                    entry = after[entry]
                    if classes[i] == classes[j]:
                        # In float32, so that a tie with `most` falls as it does elsewhere.
                        free = not _iou(xyxy[j], xyxy[i]) > most
        if free:
            kept[i] = True
            for row in range(cells[i, 1], cells[i, 3] + 1):
                for column in range(cells[i, 0], cells[i, 2] + 1):
                    at = row * columns + column
                    item[used], after[used], head[at] = i, head[at], used
                    used += 1
    return kept


@nb.njit
def _by_cell(cells, columns, count):
    """Return the boxes on each cell: those of cell c are ``items[starts[c]:starts[c + 1]]``."""
    starts = np.zeros(count + 1, np.int64)
    for i in range(len(cells)):
        for row in range(cells[i, 1], cells[i, 3] + 1):
            for column in range(cells[i, 0], cells[i, 2] + 1):
                starts[row * columns + column + 1] += 1
    for c in range(count):
        starts[c + 1] += starts[c]
    items, at = np.empty(starts[count], np.int64), starts[:-1].copy()
    for i in range(len(cells)):
        for row in range(cells[i, 1], cells[i, 3] + 1):
            for column in range(cells[i, 0], cells[i, 2] + 1):
                c = row * columns + column
                items[at[c]] = i
                at[c] += 1
    return starts, items


@kernel(nb.types.Tuple((nb.int64[::1], nb.float64[::1]))(_F4, _I8, _F8, _CELLS, _F8, nb.float64, nb.float64))
def decay(xyxy, classes, scores, cells, grid, sigma, least):
    """Return the boxes from best to worst, and every box's score after those before it have weakened it.

    A score that falls below `least` weakens no other.
    """
    columns = np.int64(grid[3])
    starts, items = _by_cell(cells, columns, columns * np.int64(grid[4]))
    exact, score = xyxy.astype(np.float64), scores.copy()
    waiting = [(-score[i], i) for i in range(len(score))]
    heapq.heapify(waiting)
    done = np.zeros(len(score), np.bool_)
    order, count = np.empty(len(score), np.int64), 0
    while waiting:
        value, i = heapq.heappop(waiting)
        if score[i] < least:
            continue
        if -value != score[i]:  # weakened since it was put in line
            heapq.heappush(waiting, (-score[i], i))
            continue
        done[i] = True
        order[count] = i
        count += 1
        for row in range(cells[i, 1], cells[i, 3] + 1):
            for column in range(cells[i, 0], cells[i, 2] + 1):
                for k in range(starts[row * columns + column], starts[row * columns + column + 1]):
                    j = items[k]
                    # Of the cells that two boxes share, one is that of the corner where their overlap begins.
                    once = column == max(cells[i, 0], cells[j, 0]) and row == max(cells[i, 1], cells[j, 1])
                    if once and not done[j] and score[j] >= least and classes[i] == classes[j]:
                        overlap = _iou(exact[i], exact[j])
                        score[j] *= np.exp(-overlap * overlap / sigma)
    return order[:count].copy(), score


@nb.njit
def _range(box, grid):
    """Return the first column and row and the last ones of the cells a box lies on."""
    out = np.empty(4, np.int64)
    for k in range(4):
        cell = np.int64(np.floor((box[k] - grid[k % 2]) / grid[2]))
        out[k] = min(max(cell, 0), np.int64(grid[3 + k % 2]) - 1)
    return out


@kernel(
    nb.types.Tuple((nb.float64[:, ::1], nb.float64[::1], nb.int64[::1], nb.int64[::1]))(
        _F4, _I8, _F8, _I8, _CELLS, _F8, nb.float64
    )
)
def cluster(xyxy, classes, scores, order, cells, grid, least):
    """Gather boxes, from best to worst, around means that they overlap by more than `least`.

    Returns the means (k, 4) weighted by score, the mean score, the number of boxes and the best box of each cluster.
    """
    columns = np.int64(grid[3])
    n = len(xyxy)
    head = np.full(columns * np.int64(grid[4]), -1, np.int64)
    after, item = np.empty(8 * n + 64, np.int64), np.empty(8 * n + 64, np.int64)
    mean, weighted = np.empty((n, 4), np.float64), np.zeros((n, 4), np.float64)
    total, members, first = np.zeros(n, np.float64), np.zeros(n, np.int64), np.empty(n, np.int64)
    listed = np.empty((n, 4), np.int64)  # the cells on which a cluster is listed: first column and row, last ones
    count = used = 0
    for i in order:
        box = xyxy[i].astype(np.float64)
        best, at = least, -1
        for row in range(cells[i, 1], cells[i, 3] + 1):
            for column in range(cells[i, 0], cells[i, 2] + 1):
                entry = head[row * columns + column]
                while entry >= 0:
                    c = item[entry]
                    entry = after[entry]
                    if classes[first[c]] == classes[i]:
                        overlap = _iou(box, mean[c])
                        if overlap > best or (overlap == best and c < at):
                            best, at = overlap, c
        if at < 0:
            at = count
            count += 1
            first[at], mean[at], listed[at] = i, box, (0, 0, -1, -1)
        total[at] += scores[i]
        members[at] += 1
        weighted[at] += scores[i] * box
        if total[at] > 0:
            mean[at] = weighted[at] / total[at]
        old, new = listed[at].copy(), _range(mean[at], grid)
        if old[2] >= 0:
            new[:2], new[2:] = np.minimum(new[:2], old[:2]), np.maximum(new[2:], old[2:])
        listed[at] = new
        for row in range(new[1], new[3] + 1):
            for column in range(new[0], new[2] + 1):
                if old[0] <= column <= old[2] and old[1] <= row <= old[3]:
                    continue
                if used == len(item):
                    after, item = np.concatenate((after, after)), np.concatenate((item, item))
                cell = row * columns + column
                item[used], after[used], head[cell] = at, head[cell], used
                used += 1
    return mean[:count].copy(), total[:count] / members[:count], members[:count].copy(), first[:count].copy()
