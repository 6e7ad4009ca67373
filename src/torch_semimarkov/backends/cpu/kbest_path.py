"""The best path, and which of the other edges into its nodes can matter.

A path that takes one other edge into a node of the best path, and else best edges, loses what that
edge does. So with k - 1 such edges there are k paths that lose no more than the worst of them, and
an edge that loses more is in none of the k best.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import inlined, part, small
from torch_semimarkov.backends.cpu.growing import grown
from torch_semimarkov.backends.cpu.kbest_edges import (
    BITS,
    ENTRY,
    LABEL,
    LONG,
    START,
    begins_segment,
    edge_from,
    entry_to,
    first_best,
    has_pairs,
    kind_of,
    label_of,
    least_value,
    loss_of,
    may_lose_less,
    tail_from,
    weigh,
    weigh_pairs,
    weighed,
)
from torch_semimarkov.backends.cpu.kbest_lists import NONE
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
        The number of segments; (1, n) nodes where another edge may matter; n; the most that an edge
        may lose.
    """
    L, allowed, tables, plan, values = graph
    work, rate, pairs, tail = tables[0], tables[1], has_pairs(tables), tail_from(tables, plan)
    node, found, losses = entry_to(L, 0), 0, 0
    choices, chosen = np.empty((1, 64), np.int64), 0
    while node != START:
        if pairs:
            count, top, near = weigh_pairs(node, L, tables, plan, values)
        else:
            count, top, near = weigh(node, L, allowed, work, rate, tail, plan, values)
        best = first_best(count, near, values)
        losses, matters = keep_others(best, count, top, near, values, heap, losses)
        if matters:
            choices = grown(choices, chosen + 1)
            choices[0, chosen], chosen = node, chosen + 1
        before = edge_from(node, best, pairs, plan.labels, tail)
        if begins_segment(before, node):
            segments[0, found], segments[1, found] = before >> BITS, label_of(node)
            found += 1
        node = before
    return found, choices, chosen, bound_of(heap, losses)


@part
def segments_at(L, segments, count):
    """(L + 1,) the segment of the best path that has the position before each; 0 before 0."""
    found, stop = np.zeros(L + 1, np.int32), L
    for i in range(count):
        for position in range(segments[0, i] + 1, stop + 1):
            found[position] = i
        stop = segments[0, i]
    return found


@small
def step_at(node, L):
    """A number that grows along a way back."""
    return (L - (node >> BITS)) * 4 + kind_of(node)


@small
def segment_at(step, inside):
    """The first segment of the best path that begins at a step or after it."""
    return inside[len(inside) - 1 - step // 4]


@small
def on_path(node, inside, segments, K):
    """True if the best path passes a node."""
    position, kind = node >> BITS, kind_of(node)
    i = inside[position]
    if kind == LONG:
        return segments[1, i] == label_of(node) and position - segments[0, i] >= K
    if position != (segments[0, i - 1] if i > 0 else len(inside) - 1):
        return False
    return segments[1, i - 1 if kind == ENTRY else i] == label_of(node)


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
    at = ((node >> BITS) * 97 + (node & LABEL) + kind_of(node)) & last
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
        path: segments, of which the first are those of the best path; what :func:`segments_at`
            says of it; the nodes off it that are known.
        filled: how many segments there are.

    Returns:
        The node, its step if it is on the best path or else -1, the segments, and how many there
        are now.
    """
    segments, inside, known = path
    L, _, tables, plan, values = graph
    pairs, tail = has_pairs(tables), tail_from(tables, plan)
    while node != START:
        if on_path(node, inside, segments, plan.K):
            return node, step_at(node, L), segments, filled
        if known[0, place_of(node, known)] == node:
            return node, NONE, segments, filled
        count, top, near = weighed(node, graph)
        if bound >= 0 and has_choice(count, bound, top, near, values):
            return node, NONE, segments, filled
        before = edge_from(node, first_best(count, near, values), pairs, plan.labels, tail)
        if begins_segment(before, node):
            segments = grown(segments, filled + 1)
            segments[0, filled], segments[1, filled] = before >> BITS, label_of(node)
            filled += 1
        node = before
    return node, NONE, segments, filled
