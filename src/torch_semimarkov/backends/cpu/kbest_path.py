"""The best path, and which of the other edges into its nodes can matter.

A path that takes one other edge into a node of the best path, and else best edges, loses what that
edge does. So with k - 1 such edges there are k paths that lose no more than the worst of them, and
an edge that loses more is in none of the k best.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import inlined, part, small
from torch_semimarkov.backends.cpu.kbest_edges import (
    BITS,
    LABEL,
    START,
    edge_from,
    entry_to,
    first_best,
    has_pairs,
    is_entry,
    label_of,
    least_value,
    loss_of,
    may_lose_less,
    weigh,
    weigh_pairs,
    weighed,
)
from torch_semimarkov.backends.cpu.kbest_lists import grown
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def keep_least(loss, heap, count):
    """Put a loss among the ``len(heap)`` least, the largest of them first; returns their number."""
    size = len(heap)
    if count < size:
        at = count
        while at > 0 and heap[(at - 1) // 2] < loss:
            heap[at] = heap[(at - 1) // 2]
            at = (at - 1) // 2
        heap[at] = loss
        return count + 1
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= loss:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = loss
    return count


@small
def bound_of(heap, count):
    """What an edge may lose: the largest of the losses, if there are as many as the heap holds."""
    return heap[0] if count == len(heap) else np.inf


@inlined
def keep_others(best, count, top, near, values, heap, losses):
    """Put what the other edges into a node lose into the heap; True if one may matter."""
    low, matters = least_value(bound_of(heap, losses), top, near), False
    for i in range(0, count, LANES):
        if may_lose_less(i, low, values):
            for j in range(i, min(i + LANES, count)):
                loss = loss_of(values[j], top, near)
                bound = bound_of(heap, losses)
                matters |= j != best and loss < np.inf and loss <= bound
                if j != best and loss < bound:
                    losses = keep_least(loss, heap, losses)
    return losses, matters


@part
def best_path(graph, heap, segments):
    """Walk back from the end of the sequence by best edges.

    Args:
        graph: as for :func:`weighed`.
        heap: room for k - 1 losses.
        segments: (2, L) starts and labels, filled from the last segment on.

    Returns:
        The number of segments; (2, n) nodes where another edge may matter, and the step at which
        each is passed; n; the most that an edge may lose.
    """
    L, allowed, tables, plan, values = graph
    work, pairs = tables[0], has_pairs(tables)
    node, step, found, losses = entry_to(L, 0), 0, 0, 0
    choices, chosen = np.empty((2, 64), np.int64), 0
    while node != START:
        if pairs:
            count, top, near = weigh_pairs(node, L, tables, plan, values)
        else:
            count, top, near = weigh(node, L, allowed, work, plan, values)
        best = first_best(count, near, values)
        losses, matters = keep_others(best, count, top, near, values, heap, losses)
        if matters:
            choices = grown(choices, chosen + 1)
            choices[0, chosen], choices[1, chosen] = node, step
            chosen += 1
        before = edge_from(node, best, pairs, plan.labels)
        if not is_entry(node):
            segments[0, found], segments[1, found] = before >> BITS, label_of(node)
            found += 1
        node, step = before, step + 1
    return found, choices, chosen, bound_of(heap, losses)


@part
def stops_of(L, segments, count):
    """(L + 1,) the segment of the best path that ends before a position, -1 where none does."""
    found, stop = np.full(L + 1, -1, np.int32), L
    for i in range(count):
        found[stop] = i
        stop = segments[0, i]
    return found


@small
def step_of(node, stops, segments, pairs):
    """The step at which the best path passes a node, -1 if it does not.

    The end of the sequence is step 0, the end of the last segment step 1, where its label is
    entered step 2, and so on; with ``pairs`` the end of each segment is a step.
    """
    i = stops[node >> BITS]
    if i < 0:
        return -1
    i -= is_entry(node)
    if segments[1, i] != label_of(node):
        return -1
    return 1 + i if pairs else 1 + 2 * i + is_entry(node)


@small
def segment_at(step, pairs):
    """The first segment of the best path that ends at a step or after it."""
    return max(step - 1, 0) if pairs else step // 2


@part
def has_choice(count, bound, top, near, values):
    """True if more than one edge into a node loses no more than ``bound``."""
    low, found = least_value(bound, top, near), 0
    for i in range(0, count, LANES):
        if may_lose_less(i, low, values):
            for j in range(i, min(i + LANES, count)):
                loss = loss_of(values[j], top, near)
                found += loss < np.inf and loss <= bound
                if found > 1:
                    return True
    return False


@part
def place_of(node, known):
    """Where a node stands in a table with open addresses, or may be put if it is not in it."""
    last = known.shape[1] - 1
    at = ((node >> BITS) * 97 + (node & LABEL)) & last
    while known[0, at] != START and known[0, at] != node:
        at = (at + 1) & last
    return at


@part
def remember(node, number, known):
    """Put a new node and its number into the table, which is less than half full; returns it."""
    if 2 * (number + 1) >= known.shape[1]:
        larger = np.zeros((2, 2 * known.shape[1]), np.int64)
        for i in range(known.shape[1]):
            if known[0, i] != START:
                at = place_of(known[0, i], larger)
                larger[0, at], larger[1, at] = known[0, i], known[1, i]
        known = larger
    at = place_of(node, known)
    known[0, at], known[1, at] = node, number
    return known


@part
def walk_on(node, bound, graph, path, filled):
    """Go back from a node by best edges to the best path, to a known node, or to a choice.

    Args:
        node: where to begin.
        bound: what another edge may lose to be a choice; below 0 none is.
        graph: as for :func:`weighed`.
        path: segments, of which the first are those of the best path; what :func:`stops_of` says
            of it; the nodes off it that are known.
        filled: how many segments there are.

    Returns:
        The node, its step on the best path or -1, the segments, and how many there are now.
    """
    (segments, stops, known), pairs = path, has_pairs(graph[2])
    while node != START:
        step = step_of(node, stops, segments, pairs)
        if step >= 0 or known[0, place_of(node, known)] == node:
            return node, step, segments, filled
        count, top, near = weighed(node, graph)
        if bound >= 0 and has_choice(count, bound, top, near, graph[4]):
            return node, -1, segments, filled
        best = first_best(count, near, graph[4])
        before = edge_from(node, best, pairs, graph[3].labels)
        if not is_entry(node):
            segments = grown(segments, filled + 1)
            segments[0, filled], segments[1, filled] = before >> BITS, label_of(node)
            filled += 1
        node = before
    return node, -1, segments, filled
