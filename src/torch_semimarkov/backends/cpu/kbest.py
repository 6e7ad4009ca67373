"""The k best segmentations from kept messages: edges of a node, and lists of ways to it."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.exact_viterbi import best_last
from torch_semimarkov.backends.cpu.kbest_lists import (
    M,
    answer,
    grown,
    insert,
    open_list,
    turn_round,
    whom_to_ask,
)
from torch_semimarkov.backends.cpu.vector_types import LANES
from torch_semimarkov.backends.cpu.viterbi import slack


@part
def list_last(first, room, L, work, plan, reals, wholes):
    """The edges into the end of the sequence; returns their number."""
    P, labels = (plan.size + L * plan.C) + (L - 1) * plan.C, plan.labels
    _, top = best_last(P, work, plan)
    count = 0
    for c in range(labels):
        value = work[P + c] + work[plan.last + c]
        if value > -np.inf:
            pred = 1 + (L - 1) * labels + c
            count = insert(top - value, pred, first, count, room, reals, wholes)
    return count


@part
def list_sources(node, first, room, L, work, plan, reals, wholes):
    """The edges into a label that is entered; returns their number."""
    labels = plan.labels
    s, c = divmod(node - 1 - L * labels, labels)
    P = (plan.size + L * plan.C) + (s - 1) * plan.C
    column = plan.move + c // LANES * plan.C * LANES + c % LANES
    top, count = -np.inf, 0
    for source in range(labels):
        top = max(top, work[P + source] + work[column + source * LANES])
    near = top - slack(abs(top))
    for source in range(labels):
        value = work[P + source] + work[column + source * LANES]
        if value > -np.inf:
            loss = 0.0 if value >= near else top - value
            pred = 1 + (s - 1) * labels + source
            count = insert(loss, pred, first, count, room, reals, wholes)
    return count


@part
def list_durations(node, first, room, L, allowed, work, plan, reals, wholes):
    """The edges into the end of a segment, one a duration; returns their number."""
    labels, count, top = plan.labels, 0, -np.inf
    last, c = divmod(node - 1, labels)
    stop = last + 1
    bias = plan.bias + c // LANES * plan.depth * LANES + c % LANES
    column = plan.size + c // LANES * L * LANES + c % LANES
    longest = min(plan.K, stop - (allowed[last * labels + c] if len(allowed) else 0))
    for d in range(1, longest + 1):
        top = max(top, work[column + (stop - d) * LANES] + work[bias + d * LANES])
    near = top - slack(abs(top) + abs(work[(plan.size + L * plan.C) + last * plan.C + c]))
    for d in range(1, longest + 1):
        value = work[column + (stop - d) * LANES] + work[bias + d * LANES]
        if value > -np.inf:
            loss = 0.0 if value >= near else top - value
            pred = 1 + (L + stop - d) * labels + c if d < stop else 0
            count = insert(loss, pred, first, count, room, reals, wholes)
    return count


@part
def list_last_of_any(first, room, L, tables, plan, reals, wholes):
    """:func:`list_last` for (K, C, C) transitions."""
    _, _, closes, values, _, _, _, _, end = tables
    labels, count, top = plan.labels, 0, -np.inf
    for step in range(2):
        for c in range(labels):
            at = (L - 1) * labels + c
            value = values[at] + (closes[at] if len(closes) else 0.0) + end[c]
            if step == 0:
                top = max(top, value)
            elif value > -np.inf:
                count = insert(top - value, 1 + at, first, count, room, reals, wholes)
    return count


@part
def list_pairs(node, first, room, tables, plan, reals, wholes):
    """The edges into the end of a segment, one a duration and source; returns their number.

    ``values`` lack the end score of their position and are relative to the normaliser.
    """
    scores, opens, closes, values, steps, transition, bias, start, _ = tables
    labels, C, count, top = plan.labels, plan.C, 0, -np.inf
    S = (labels + 3) // 4 * 4
    last, c = divmod(node - 1, labels)
    near = -np.inf
    for step in range(2):
        content = 0.0
        for d in range(min(plan.K, last + 1)):
            begin = last - d
            here = begin * labels + c
            content += scores[here] - (steps[begin - 1] if begin > 0 else 0.0)
            if content == -np.inf:
                break
            base = content + bias[d * C + c] + (opens[here] if len(opens) else 0.0)
            for source in range(labels if begin > 0 else 1):
                at = (begin - 1) * labels + source
                value = base + start[c]
                if begin > 0:
                    value = base + transition[(d * S + source) * C + c] + values[at]
                    value += closes[at] if len(closes) else 0.0
                if step == 0:
                    top = max(top, value)
                elif value > -np.inf:
                    loss = 0.0 if value >= near else top - value
                    pred = 1 + at if begin > 0 else 0
                    count = insert(loss, pred, first, count, room, reals, wholes)
        near = top - slack(abs(top))
    return count


@part
def list_edges(node, first, room, L, allowed, tables, plan, reals, wholes):
    """The best edges into a node, in order of what they lose; returns their number."""
    if len(tables[3]):  # the values that (K, C, C) transitions keep
        if node == 0:
            return list_last_of_any(first, room, L, tables, plan, reals, wholes)
        return list_pairs(node, first, room, tables, plan, reals, wholes)
    work = tables[0]
    if node == 0:
        return list_last(first, room, L, work, plan, reals, wholes)
    if node > L * plan.labels:
        return list_sources(node, first, room, L, work, plan, reals, wholes)
    return list_durations(node, first, room, L, allowed, work, plan, reals, wholes)


@compiled
def follow(L, allowed, tables, plan, best, scores, counts):
    """The k best segmentations of a sequence, one after the other, as columns of one table.

    Args:
        L: its positions.
        allowed: as :func:`kept_sweep` gives it.
        tables: (C, C) transitions: its work array, and empty arrays. (K, C, C): scores, start and
            end scores, the values and steps that viterbi keeps, transition, bias, start, end.
        plan: that of the work array; for (K, C, C) transitions only the sizes count.
        best: the best score, a number.
        scores, counts: (k,), full of -inf and 0; filled as far as there are segmentations.

    Returns:
        (3, n) starts, ends and labels of the segments of the first one, then of the second.
    """
    k, labels, per_duration = len(scores), plan.labels, len(tables[3]) > 0
    slots = np.full(1 + (1 if per_duration else 2) * L * labels, -1, np.int32)
    nodes, reals = np.empty((5, 16), np.int64), np.empty((3, 64))
    wholes = np.empty((4, 64), np.int64)
    chain, used, columns, reached = np.empty(2 * L + 1, np.int64), 0, 0, 0
    while reached < k:
        node, depth = 0, 0
        while node >= 0:
            if slots[node] < 0:
                # what the paths still to come can ask for, and the best
                room = min(k, k - reached + 1)
                nodes, reals = grown(nodes, used + 1), grown(reals, columns + room + 1)
                wholes = grown(wholes, columns + room + 1)
                count = list_edges(node, columns, room, L, allowed, tables, plan, reals, wholes)
                open_list(used, columns, count, room, nodes, reals, wholes)
                slots[node], used, columns = used, used + 1, columns + room
                if reached == 0:
                    break
            chain[depth], depth = slots[node], depth + 1
            node = whom_to_ask(slots[node], slots, nodes, reals, wholes)
        answer(chain, depth, nodes, reals, wholes)
        if nodes[M.GOT, 0] == reached:
            break
        scores[reached] = best - reals[M.DEFICIT, nodes[M.FIRST, 0] + reached]
        reached += 1
    found, filled = np.empty((3, 64), np.int64), 0
    for i in range(reached):
        node, place, begins = 0, i, filled
        while True:
            if slots[node] >= 0:
                entry = nodes[M.FIRST, slots[node]] + place
                edge, place = wholes[M.CHOSEN, entry], wholes[M.PLACE, entry]
            else:
                edge, place = columns, 0
                list_edges(node, columns, 1, L, allowed, tables, plan, reals, wholes)
            pred = wholes[M.PRED, edge]
            if 0 < node <= L * labels:
                found = grown(found, filled + 1)
                start = (pred - 1) // labels + (1 if per_duration else -L)
                found[0, filled] = start if pred > 0 else 0
                found[1, filled], found[2, filled] = (node - 1) // labels + 1, (node - 1) % labels
                filled += 1
            if pred == 0:
                break
            node = pred
        counts[i] = filled - begins
        turn_round(found, begins, filled)
    return found[:, :filled].copy()
