"""Groups of what is linked, by pairs."""

from __future__ import annotations

import numpy as np

__all__ = ["groups"]


def groups(count: int, one: np.ndarray, two: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of groups that the pairs (`one`, `two`) make of 0 to `count` - 1, and the group of each."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if count == 0:
        return 0, np.zeros(0, np.int32)
    graph = coo_matrix((np.ones(len(one), bool), (one, two)), shape=(count, count))
    return connected_components(graph, directed=False)
