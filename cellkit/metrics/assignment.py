"""Which object goes with which, where more than one choice is open."""

from __future__ import annotations

import numpy as np

__all__ = ["best_pairs", "spread"]

# Larger tables of one part are solved sparse.
_DENSE = 1 << 16


def best_pairs(rows: np.ndarray, columns: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Choose pairs, each row and each column at most once, so that the sum of their gains is largest.

    `rows`, `columns`: intp (k,), the pairs there are, each once. `gain`: float (k,), above 0. Returns bool (k,).

    Source: R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38 (1987), as in scipy.
    """
    chosen = np.zeros(len(rows), bool)
    left = np.arange(len(rows))
    while len(left):
        row, column, value = rows[left], columns[left], gain[left]
        # A pair worth more than the best that its row and its column could have instead is in every best choice.
        sure = value > _second(row, value) + _second(column, value)
        if not sure.any():
            break
        chosen[left[sure]] = True
        left = left[~(_among(row, row[sure]) | _among(column, column[sure]))]
    for part in _components(rows[left], columns[left]):
        at = left[part]
        chosen[at[_solved(rows[at], columns[at], gain[at])]] = True
    return chosen


def _second(who: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return, for each pair, the highest `value` among the other pairs of the same `who`; 0 where there is none."""
    order = np.lexsort((-value, who))
    first = np.ones(len(who), bool)
    first[1:] = who[order][1:] != who[order][:-1]
    starts = np.flatnonzero(first)
    top = value[order][starts]
    second = np.zeros(len(starts))
    more = np.diff(np.append(starts, len(who))) > 1
    second[more] = value[order][starts[more] + 1]
    group = np.cumsum(first) - 1
    other = np.where(first, second[group], top[group])
    result = np.empty(len(who))
    result[order] = other
    return result


def _among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    there = np.zeros(int(values.max()) + 1, bool)
    there[some] = True
    return there[values]


def _components(rows: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """Return the pairs of each part of the graph that no pair connects to another, as places."""
    if not len(rows):
        return []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = int(rows.max()) + 1
    size = first + int(columns.max()) + 1
    graph = coo_array((np.ones(len(rows), bool), (rows, first + columns)), shape=(size, size))
    part = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(part, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(part[order])) + 1)


def _solved(rows: np.ndarray, columns: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return the best choice among the pairs of one part, bool (k,)."""
    row_ids, row = np.unique(rows, return_inverse=True)
    column_ids, column = np.unique(columns, return_inverse=True)
    partner = np.full(len(row_ids), -1, np.intp)
    matched_rows: np.ndarray
    matched: np.ndarray
    if len(row_ids) * len(column_ids) <= _DENSE:
        from scipy.optimize import linear_sum_assignment

        table = np.zeros((len(row_ids), len(column_ids)))
        table[row, column] = gain
        matched_rows, matched = linear_sum_assignment(table, maximize=True)
    else:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import min_weight_full_bipartite_matching

        # Every row may also stay alone, in a column of its own. A cost of 0 would mean that there is no such pair.
        most = float(gain.max()) + 1.0
        own = np.arange(len(row_ids))
        cost = np.concatenate([most - gain, np.full(len(own), most)])
        at = np.concatenate([row, own]), np.concatenate([column, len(column_ids) + own])
        shape = (len(row_ids), len(column_ids) + len(row_ids))
        matched_rows, matched = min_weight_full_bipartite_matching(coo_array((cost, at), shape=shape).tocsr())
    partner[matched_rows] = matched
    return partner[row] == column


def spread(rows: np.ndarray, columns: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Give every row one of its columns so that the weights of the columns taken at least once sum to the most.

    `rows`, `columns`: intp (k,), the columns that are equally good for each row. `weight`: (k,), that of the pair's
    column, above 0. Returns bool (k,), one True for each row. That sum hangs on no order and no ids.
    """
    chosen = np.zeros(len(rows), bool)
    if not len(rows):
        return chosen
    single = np.bincount(rows)[rows] == 1
    chosen[single] = True
    taken = np.zeros(int(columns.max()) + 1, bool)
    taken[columns[single]] = True
    useful = np.flatnonzero(~single & ~taken[columns])
    chosen[useful[best_pairs(rows[useful], columns[useful], weight[useful].astype(np.float64))]] = True
    served = np.zeros(int(rows.max()) + 1, bool)
    served[rows[chosen]] = True
    left = np.flatnonzero(~served[rows])
    chosen[left[np.unique(rows[left], return_index=True)[1]]] = True
    return chosen
