"""The k highest scores, with ties resolved as the reference implementation resolves them."""

from __future__ import annotations

from typing import Callable, Union

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[Union[np.floating, np.integer]]
Indices = npt.NDArray[np.int64]
Before = Callable[[int, int], bool]

# torch takes the heap when k * 64 <= n, and the partition otherwise
_HEAP_RATIO = 64


def top_k_indices(scores: Scores, k: int) -> Indices:
    """Ascending indices of the k highest of `scores` (n,): the set that `torch.topk` returns on a CPU.

    NaN counts as the highest value. Values above the k-th largest are always in the set. When several scores equal
    the k-th largest and only some of them fit, the set is a matter of the algorithm; max pooling makes such plateaus
    often. The authors of arXiv:2508.02401 select with `torch.topk`, so the retained tokens equal theirs only if these
    ties are broken by the same steps: those of C++'s `nth_element` and `partial_sort` as libstdc++ does them, which are
    deterministic. `csrc/core/top_k.cpp` takes the same steps.

    Raises ValueError if `scores` is not one-dimensional or k is not in 0..n.
    """
    values = np.asarray(scores)
    if values.ndim != 1:
        raise ValueError(f"scores must have one dimension, got shape {values.shape}")
    if not 0 <= k <= values.size:
        raise ValueError(f"k must be in 0..{values.size} (the number of scores), got {k}")
    if k == 0:
        return np.empty(0, dtype=np.int64)
    return _select(_ranks(values), k)


def _ranks(values: Scores) -> Indices:
    """Dense ranks: equal scores share one, NaN is on top. Comparisons of ranks are those of torch on scores."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.int64)


def _select(ranks: Indices, k: int) -> Indices:
    kth = np.partition(ranks, ranks.size - k)[ranks.size - k]
    at_least = np.flatnonzero(ranks >= kth)
    if at_least.size == k:
        return at_least.astype(np.int64)
    return _select_with_ties(ranks, k)


def _select_with_ties(ranks: Indices, k: int) -> Indices:
    """As torch: the first k of a row of (score, index) pairs after a partial sort or a partition."""
    n = ranks.size
    row = list(range(n))
    rank = ranks.tolist()

    def before(a: int, b: int) -> bool:
        return bool(rank[a] > rank[b])

    if k * _HEAP_RATIO <= n:
        _heap_select(row, before, 0, k, n)
    else:
        _intro_select(row, before, k - 1)
    return np.sort(np.asarray(row[:k], dtype=np.int64))


# The rest works on row[first:last] in place. before(a, b): index a has the strictly higher score.


def _intro_select(row: list[int], before: Before, nth: int) -> None:
    """Partition until row[nth] is in its sorted place: quickselect, on a heap once it has gone 2 log2(n) deep."""
    first, last = 0, len(row)
    depth = 2 * (len(row).bit_length() - 1)
    while last - first > 3:
        if depth == 0:
            _heap_select(row, before, first, nth + 1, last)
            row[first], row[nth] = row[nth], row[first]
            return
        depth -= 1
        cut = _partition(row, before, first, last)
        if cut <= nth:
            first = cut
        else:
            last = cut
    _insertion_sort(row, before, first, last)


def _partition(row: list[int], before: Before, first: int, last: int) -> int:
    """Hoare's partition round a pivot that stays at row[first]; returns where the second part begins.

    Both scans stop at elements equal to the pivot, and the pivot is a median of three: neither can leave the row.
    """
    median = _median(row, before, first + 1, first + (last - first) // 2, last - 1)
    row[first], row[median] = row[median], row[first]
    pivot = row[first]
    low, high = first + 1, last - 1
    while True:
        while before(row[low], pivot):
            low += 1
        while before(pivot, row[high]):
            high -= 1
        if low >= high:
            return low
        row[low], row[high] = row[high], row[low]
        low += 1
        high -= 1


def _median(row: list[int], before: Before, a: int, b: int, c: int) -> int:
    """Which of the places a, b, c holds the median; which one it is among equals decides ties, so the order matters."""
    if before(row[a], row[b]):
        if before(row[b], row[c]):
            return b
        return c if before(row[a], row[c]) else a
    if before(row[a], row[c]):
        return a
    return c if before(row[b], row[c]) else b


def _insertion_sort(row: list[int], before: Before, first: int, last: int) -> None:
    for i in range(first + 1, last):
        item, j = row[i], i
        while j > first and before(item, row[j - 1]):
            row[j] = row[j - 1]
            j -= 1
        row[j] = item


def _heap_select(row: list[int], before: Before, first: int, middle: int, last: int) -> None:
    """Leave the best of row[first:last] in row[first:middle], as a heap with the worst of them on top."""
    size = middle - first
    for hole in range((size - 2) // 2, -1, -1):
        _sift(row, before, first, hole, size, row[first + hole])
    for i in range(middle, last):
        if before(row[i], row[first]):
            item, row[i] = row[i], row[first]
            _sift(row, before, first, 0, size, item)


def _sift(row: list[int], before: Before, first: int, hole: int, size: int, item: int) -> None:
    """Put `item` into the heap at row[first:first + size] whose place `hole` is free.

    The hole sinks to a leaf along the worse children (the right one among equals), then `item` climbs from there.
    """
    top = hole
    while 2 * hole + 2 < size:
        child = 2 * hole + 2
        if before(row[first + child], row[first + child - 1]):
            child -= 1
        row[first + hole] = row[first + child]
        hole = child
    if 2 * hole + 1 < size:
        row[first + hole] = row[first + 2 * hole + 1]
        hole = 2 * hole + 1
    while hole > top and before(row[first + (hole - 1) // 2], item):
        row[first + hole] = row[first + (hole - 1) // 2]
        hole = (hole - 1) // 2
    row[first + hole] = item
