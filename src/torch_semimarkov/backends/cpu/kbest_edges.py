"""The graph whose ways are segmentations: its nodes, and what each edge into a node is worth.

A node is where a segment of a label ends, or where a label is entered; with (K, C, C) transitions
there are no nodes of the second kind but one. The number of a node is its position, its label and
its kind. The sequence starts at node 0 and ends at node ``entry_to(L, 0)``. What an edge loses is
the best value of an edge into the same node, less its own.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import part, small
from torch_semimarkov.backends.cpu.exact_viterbi import best_last, slack
from torch_semimarkov.backends.cpu.vector import any_of, beats, load, spread
from torch_semimarkov.backends.cpu.vector_types import LANES

START = 0
# A label and a bit for the kind of node.
BITS = 32
LABEL = (1 << BITS) - 1


@small
def end_of(stop, label):
    """The node where a segment of a label ends before position ``stop``."""
    return (stop << BITS) | (label << 1)


@small
def entry_to(position, label):
    """The node where a label is entered at a position."""
    return (position << BITS) | (label << 1) | 1


@small
def is_entry(node):
    """True where a label is entered, False where a segment ends."""
    return node & 1 == 1


@small
def label_of(node):
    """Its label."""
    return (node & LABEL) >> 1


@small
def has_pairs(graph):
    """True with (K, C, C) transitions, where an edge is a duration and the label before."""
    return len(graph[2][3]) > 0


@small
def edge_from(node, i, graph):
    """The node that edge i into a node comes from."""
    plan, stop, label = graph[3], node >> BITS, label_of(node)
    if is_entry(node):
        return end_of(stop, i)
    if has_pairs(graph):
        begin = stop - 1 - i // plan.labels
        return end_of(begin, i % plan.labels) if begin > 0 else START
    begin = stop - 1 - i
    return entry_to(begin, label) if begin > 0 else START


@part
def ways_to_the_end(L, work, plan, values):
    """:func:`weigh` for the end of the sequence: an edge is a last label."""
    P = (plan.size + L * plan.C) + (L - 1) * plan.C
    _, top = best_last(P, work, plan)
    for c in range(plan.labels):
        values[c] = work[P + c] + work[plan.last + c]
    return plan.labels, top, top


@part
def pairs_to_the_end(L, tables, plan, values):
    """The same for (K, C, C) transitions."""
    _, _, closes, kept, _, _, _, _, end = tables
    top = -np.inf
    for c in range(plan.labels):
        at = (L - 1) * plan.labels + c
        values[c] = kept[at] + (closes[at] if len(closes) else 0.0) + end[c]
        top = max(top, values[c])
    return plan.labels, top, top


@small
def ways_to_entry(position, label, L, work, plan, values):
    """:func:`weigh` for a label that is entered: an edge is the label before."""
    P = (plan.size + L * plan.C) + (position - 1) * plan.C
    column, top = plan.move + label // LANES * plan.C * LANES + label % LANES, -np.inf
    for source in range(plan.labels):
        values[source] = work[P + source] + work[column + source * LANES]
        top = max(top, values[source])
    return plan.labels, top, top - slack(abs(top))


@small
def ways_to_stop(stop, label, L, allowed, work, plan, values):
    """:func:`weigh` for the end of a segment: an edge is its duration."""
    block, lane, last = label // LANES, label % LANES, stop - 1
    bias = plan.bias + (block * plan.depth + 1) * LANES + lane
    column = plan.size + (block * L + last) * LANES + lane
    first, top = allowed[last * plan.labels + label] if len(allowed) else 0, -np.inf
    count = min(plan.K, stop - first)
    for i in range(count):
        values[i] = work[column - i * LANES] + work[bias + i * LANES]
        top = max(top, values[i])
    P = (plan.size + L * plan.C) + last * plan.C
    return count, top, top - slack(abs(top) + abs(work[P + label]))


@part
def pairs_to_stop(stop, label, tables, plan, values):
    """The same for (K, C, C) transitions: an edge is a duration and the label before.

    What is kept lacks the end score of its position and is relative to the normaliser.
    """
    scores, opens, closes, kept, steps, transition, bias, start, _ = tables
    labels, C, top, content, count, largest = plan.labels, plan.C, -np.inf, 0.0, 0, 0.0
    S = (labels + 3) // 4 * 4
    for d in range(min(plan.K, stop)):
        begin = stop - 1 - d
        here = begin * labels + label
        content += scores[here] - (steps[begin - 1] if begin > 0 else 0.0)
        if content == -np.inf:
            break
        largest = max(largest, abs(content))
        base = content + bias[d * C + label] + (opens[here] if len(opens) else 0.0)
        for source in range(labels if begin > 0 else 1):
            value = base + start[label]
            if begin > 0:
                at = (begin - 1) * labels + source
                value = base + transition[(d * S + source) * C + label] + kept[at]
                value += closes[at] if len(closes) else 0.0
            values[count] = value
            top = max(top, value)
            count += 1
    return count, top, top - slack(abs(top) + largest)


@small
def weigh(node, graph):
    """What the edges into a node are worth.

    Args:
        node: not 0.
        graph: positions L of the sequence; ``allowed``, tables and plan, as for kbest.py's
            :func:`search`; values, filled in the order in which ties are resolved, and with -inf up
            to whole vectors.

    Returns:
        The number of edges, the best value, and one that rounding alone may keep from the best.
    """
    L, allowed, tables, plan, values = graph
    position, label = node >> BITS, label_of(node)
    if len(tables[3]):
        if is_entry(node):
            count, top, near = pairs_to_the_end(L, tables, plan, values)
        else:
            count, top, near = pairs_to_stop(position, label, tables, plan, values)
    elif not is_entry(node):
        count, top, near = ways_to_stop(position, label, L, allowed, tables[0], plan, values)
    elif position < L:
        count, top, near = ways_to_entry(position, label, L, tables[0], plan, values)
    else:
        count, top, near = ways_to_the_end(L, tables[0], plan, values)
    for i in range(count, -(-count // LANES) * LANES):
        values[i] = -np.inf
    return count, top, near


@part
def weighed(node, graph):
    """:func:`weigh` as a call, where it is not done for each segment."""
    return weigh(node, graph)


@small
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
