"""The graph whose ways are segmentations: its nodes, and what each edge into a node is worth.

A node is where a segment of a label ends, where a label is entered, or, with a tail, where a
segment of K or more positions may end or go on. With (K, C, C) transitions only the end of the
sequence is of the second kind. The number of a node is its position, its label and its kind. The
sequence starts at node 0 and ends at node ``entry_to(L, 0)``. What an edge loses is the best value
of an edge into the same node, less its own.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import inlined, part, small
from torch_semimarkov.backends.cpu.elementary import larger
from torch_semimarkov.backends.cpu.exact_viterbi import slack
from torch_semimarkov.backends.cpu.per_duration_viterbi import slack_of_pairs
from torch_semimarkov.backends.cpu.vector import (
    any_of,
    beats,
    largest_of_lanes,
    load,
    spread,
    store,
)
from torch_semimarkov.backends.cpu.vector_types import LANES

START = 0
# Kinds of nodes, in the order in which ways back pass those of a position.
ENTRY, STOP, LONG = 0, 1, 2
# Above the kind and the label comes the position.
BITS = 32
LABEL = (1 << BITS) - 4


@small
def entry_to(position, label):
    """The node where a label is entered at a position."""
    return (position << BITS) | (label << 2)


@small
def end_of(stop, label):
    """The node where a segment of a label ends before position ``stop``."""
    return (stop << BITS) | (label << 2) | STOP


@small
def long_at(stop, label):
    """The node where a segment has K or more positions before position ``stop``."""
    return (stop << BITS) | (label << 2) | LONG


@small
def kind_of(node):
    """Its kind."""
    return node & 3


@small
def label_of(node):
    """Its label."""
    return (node & LABEL) >> 2


@small
def is_entry(node):
    """True where a label is entered."""
    return kind_of(node) == ENTRY


@small
def begins_segment(before, node):
    """True for the edge, from ``before``, with which the segment that ends at a node begins."""
    return kind_of(node) != ENTRY and kind_of(before) != LONG


@small
def has_pairs(tables):
    """True with (K, C, C) transitions, where an edge is a duration and the label before."""
    return len(tables[3]) > 0


@small
def tail_from(tables, plan):
    """K with a tail, of which segments have a node with as many positions; else 0."""
    return plan.K if len(tables[1]) > 0 and not has_pairs(tables) else 0


@small
def edge_from(node, i, pairs, labels, tail):
    """The node that edge i into a node comes from; ``tail`` as :func:`tail_from` gives it."""
    stop, label, kind = node >> BITS, label_of(node), kind_of(node)
    if kind == ENTRY:
        return end_of(stop, i)
    if kind == LONG and i == 1:
        return long_at(stop - 1, label)
    if kind == STOP and i == tail - 1:
        return long_at(stop, label)
    if pairs:
        begin = stop - 1 - i // labels
        return end_of(begin, i % labels) if begin > 0 else START
    begin = stop - (tail if kind == LONG else i + 1)
    return entry_to(begin, label) if begin > 0 else START


@part
def ways_to_the_end(L, work, plan, values):
    """Values of the edges into the end of the sequence, one a last label; returns their number."""
    P = (plan.size + L * plan.C) + (L - 1) * plan.C
    for c in range(plan.labels):
        values[c] = work[P + c] + work[plan.last + c]
    return plan.labels


@part
def pairs_to_the_end(L, tables, plan, values):
    """The same for (K, C, C) transitions."""
    _, _, closes, kept, _, _, _, _, end = tables
    for c in range(plan.labels):
        at = (L - 1) * plan.labels + c
        values[c] = kept[at] + (closes[at] if len(closes) else 0.0) + end[c]
    return plan.labels


@inlined
def ways_to_entry(position, label, L, work, plan, values):
    """Values of the edges into a label that is entered, one a label before; their number."""
    P = (plan.size + L * plan.C) + (position - 1) * plan.C
    column = plan.move + label // LANES * plan.C * LANES + label % LANES
    for source in range(plan.labels):
        values[source] = work[P + source] + work[column + source * LANES]
    return plan.labels


@inlined
def ways_to_stop(stop, label, L, allowed, work, tail, plan, values):
    """Values of the edges into the end of a segment, one a duration; their number and size.

    With a tail the last is of all that have K or more positions.
    """
    block, lane, last = label // LANES, label % LANES, stop - 1
    bias = plan.bias + (block * plan.depth + 1) * LANES + lane
    column = plan.size + (block * L + last) * LANES + lane
    first = allowed[last * plan.labels + label] if len(allowed) else 0
    count = min(plan.K, stop - first)
    for i in range(count):
        values[i] = work[column - i * LANES] + work[bias + i * LANES]
    P = (plan.size + L * plan.C) + last * plan.C
    if tail > 0 and count == tail:
        values[count - 1] = work[P + L * plan.C + label] + work[bias + (count - 1) * LANES]
    return count, abs(work[P + label])


@part
def ways_to_long(stop, label, L, allowed, work, rate, plan, values):
    """Values of the edges to where a segment has K or more positions: exactly K, or more."""
    column = plan.size + label // LANES * L * LANES + label % LANES
    before = plan.size + 2 * L * plan.C + (stop - 2) * plan.C + label
    first, begin = allowed[(stop - 1) * plan.labels + label], stop - plan.K
    values[0] = work[column + begin * LANES] if begin >= first else -np.inf
    values[1] = work[before] + rate[label] if stop > 1 else -np.inf
    return 2


@part
def pairs_to_stop(stop, label, tables, plan, values):
    """The same for (K, C, C) transitions, an edge for each duration and label before.

    What is kept lacks the end score of its position and is relative to the normaliser.
    """
    scores, opens, closes, kept, steps, transition, bias, start, _ = tables
    labels, C, content, count, size = plan.labels, plan.C, 0.0, 0, 0.0
    S = (labels + 3) // 4 * 4
    for d in range(min(plan.K, stop)):
        begin = stop - 1 - d
        here = begin * labels + label
        content += scores[here] - (steps[begin - 1] if begin > 0 else 0.0)
        if content == -np.inf:
            break
        size = max(size, abs(content))
        base = content + bias[d * C + label] + (opens[here] if len(opens) else 0.0)
        for source in range(labels if begin > 0 else 1):
            value = base + start[label]
            if begin > 0:
                at = (begin - 1) * labels + source
                value = base + transition[(d * S + source) * C + label] + kept[at]
                value += closes[at] if len(closes) else 0.0
            values[count] = value
            count += 1
    return count, size


@inlined
def largest_of(values, count):
    """The largest of some numbers, after which comes -inf up to whole vectors."""
    top = other = spread(-np.inf)
    for i in range(0, count - LANES, 2 * LANES):
        top, other = larger(top, load(values, i)), larger(other, load(values, i + LANES))
    rest = load(values, max(count - 1, 0) // LANES * LANES)
    return largest_of_lanes(larger(larger(top, other), rest))


@inlined
def weigh(node, L, allowed, work, rate, tail, plan, values):
    """What the edges into a node are worth, with (C, C) transitions.

    Args:
        node: not 0.
        L: positions of the sequence.
        allowed, work, plan: as for kbest.py's :func:`search`.
        rate: the tail by its labels, or anything.
        tail: as :func:`tail_from` gives it.
        values: filled in the order in which ties are resolved, and with -inf up to whole vectors.

    Returns:
        The number of edges, the best value, and one that rounding alone may keep from the best.
    """
    position, label, size = node >> BITS, label_of(node), 0.0
    if kind_of(node) == STOP:
        count, size = ways_to_stop(position, label, L, allowed, work, tail, plan, values)
    elif kind_of(node) == LONG:
        count = ways_to_long(position, label, L, allowed, work, rate, plan, values)
    elif position < L:
        count = ways_to_entry(position, label, L, work, plan, values)
    else:
        count = ways_to_the_end(L, work, plan, values)
    store(values, count, spread(-np.inf))
    top = largest_of(values, count)
    return count, top, top if position == L and is_entry(node) else top - slack(abs(top) + size)


@part
def weigh_pairs(node, L, tables, plan, values):
    """:func:`weigh` for (K, C, C) transitions."""
    size = 0.0
    if is_entry(node):
        count = pairs_to_the_end(L, tables, plan, values)
    else:
        count, size = pairs_to_stop(node >> BITS, label_of(node), tables, plan, values)
    store(values, count, spread(-np.inf))
    top = largest_of(values, count)
    return count, top, top if is_entry(node) else top - slack_of_pairs(abs(top) + size)


@part
def weighed(node, graph):
    """:func:`weigh`, or :func:`weigh_pairs`, where it is not done for each segment.

    Args:
        node: not 0.
        graph: what they take: L, ``allowed``, tables, plan, values.
    """
    L, allowed, tables, plan, values = graph
    if has_pairs(tables):
        return weigh_pairs(node, L, tables, plan, values)
    tail = tail_from(tables, plan)
    return weigh(node, L, allowed, tables[0], tables[1], tail, plan, values)


@inlined
def first_best(count, near, values):
    """The first edge that is as good as the best; where there is NaN, maybe the last."""
    for i in range(count - 1):
        if values[i] >= near:
            return i
    return max(count - 1, 0)


@small
def loss_of(value, top, near):
    """What an edge loses; inf if it is forbidden."""
    return 0.0 if value >= near and value > -np.inf else top - value


@small
def may_lose_less(i, low, values):
    """True if one of 8 edges from i on is worth more than ``low``, or is no number."""
    return any_of(beats(load(values, i), spread(low)))


@small
def least_value(bound, top, near):
    """What edges that lose no more than ``bound`` are worth more than."""
    return min(near, top - bound) - slack(abs(top) + bound)
