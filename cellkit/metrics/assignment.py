"""Which object goes with which, where more than one choice is open."""

from __future__ import annotations

import numpy as np

__all__ = ["best_pairs", "spread"]


def best_pairs(rows: np.ndarray, columns: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Choose pairs, each row and each column at most once, so that the sum of their gains is largest.

    `rows`, `columns`: intp (k,), the pairs there are, each once. `gain`: float (k,), above 0. Returns bool (k,).

    Source: R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38 (1987), as in scipy.
    """
    chosen = np.zeros(len(rows), bool)
    if not len(rows):
        return chosen
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    chosen[alone] = True
    open_pairs = np.flatnonzero(~alone)
    if not len(open_pairs):
        return chosen
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    row_ids, row = np.unique(rows[open_pairs], return_inverse=True)
    column_ids, column = np.unique(columns[open_pairs], return_inverse=True)
    # Every row may also stay alone, in a column of its own. Zeros would count as no pair: the cost of that is not 0.
    most = float(gain[open_pairs].max()) + 1.0
    own = np.arange(len(row_ids))
    cost = np.concatenate([most - gain[open_pairs], np.full(len(own), most)])
    at = np.concatenate([row, own]), np.concatenate([column, len(column_ids) + own])
    shape = (len(row_ids), len(column_ids) + len(row_ids))
    matched_rows, matched = min_weight_full_bipartite_matching(coo_array((cost, at), shape=shape).tocsr())
    partner = np.empty(len(row_ids), np.intp)
    partner[matched_rows] = matched
    chosen[open_pairs] = partner[row] == column
    return chosen


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
