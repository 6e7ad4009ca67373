"""The k best segmentations from kept messages, as pieces of the best path and of ways beside it."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.growing import grown
from torch_semimarkov.backends.cpu.kbest_edges import (
    BITS,
    START,
    begins_segment,
    label_of,
    weighed,
)
from torch_semimarkov.backends.cpu.kbest_lists import (
    FIRST,
    LISTS,
    NONE,
    SEGMENTS,
    UNKNOWN,
    M,
    answer,
    ask,
    empty_store,
    open_list,
    roomy,
)
from torch_semimarkov.backends.cpu.kbest_path import (
    best_path,
    has_choice,
    place_of,
    remember,
    segment_at,
    segments_at,
    step_at,
    walk_on,
)
from torch_semimarkov.backends.cpu.plan import make_plan
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def open_along(graph, choices, bound, room, used):
    """Lists of the nodes of the best path that have a choice, from the end on; returns the store.

    Args:
        graph: as for :func:`weighed`.
        choices: (1, n) nodes, among which are those.
        bound: the most that an edge may lose.
        room: edges that a list keeps at most.
        used: four zeros, which count from now on.
    """
    store = empty_store()
    for i in range(choices.shape[1]):
        node = choices[0, i]
        step = step_at(node, graph[0])
        count, top, near = weighed(node, graph)
        if has_choice(count, bound, top, near, graph[4]):
            store = open_list(node, step, count, top, near, bound, room, graph, store, used)
    lists, wholes, _, _, _ = store
    for i in range(used[LISTS]):
        edge = lists[i, M.EDGES]
        wholes[edge, M.BELOW] = i + 1 if i + 1 < used[LISTS] else NONE
        wholes[edge, M.JOIN] = lists[i, M.STEP]
        wholes[edge, M.FROM] = wholes[edge, M.TO] = 0
    return store


@part
def list_at(step, lists, count):
    """The list along the best path, of ``count``, that a walk from a step comes to, or NONE."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if lists[middle, M.STEP] < step:
            low = middle + 1
        else:
            high = middle
    return low if low < count else NONE


@part
def find_way(edge, here, along, bound, room, graph, path, store, used):
    """Walk from an edge of a list to the list below, or to the start; returns path and store.

    Args:
        edge, here: the edge and the list.
        along: how many lists there are along the best path.
        bound: the most that an edge may lose; below 0 no list is opened.
        room: edges that a new list keeps at most.
        graph, path: as for :func:`walk_on`.
        store, used: the tables, and how many rows of each are used.
    """
    (segments, inside, known), wholes, node = path, store[1], store[0][here, M.NODE]
    first, before = used[SEGMENTS], wholes[edge, M.PRED]
    filled = first
    if begins_segment(before, node):
        segments, filled = grown(segments, first + 1), first + 1
        segments[0, first], segments[1, first] = before >> BITS, label_of(node)
    path = segments, inside, known
    at, step, segments, filled = walk_on(before, bound, graph, path, filled)
    used[SEGMENTS], below = filled, NONE
    if step >= 0:
        below = list_at(step, store[0], along)
    elif at != START and known[0, place_of(at, known)] == at:
        below = known[1, place_of(at, known)]
    elif at != START:
        below = used[LISTS]
        known = remember(at, below, known)
        count, top, near = weighed(at, graph)
        store = open_list(at, NONE, count, top, near, bound, room, graph, store, used)
    wholes = store[1]
    wholes[edge, M.BELOW], wholes[edge, M.JOIN] = below, step
    wholes[edge, M.FROM], wholes[edge, M.TO] = first, filled
    return (segments, inside, known), store


@part
def add_piece(begin, stop, first, pieces, filled):
    """Put a range of segments to those from ``first`` on; returns pieces and their number."""
    if begin == stop:
        return pieces, filled
    if filled > first and pieces[1, filled - 1] == begin:
        pieces[1, filled - 1] = stop
        return pieces, filled
    pieces = grown(pieces, filled + 1)
    pieces[0, filled], pieces[1, filled] = begin, stop
    return pieces, filled + 1


@part
def add_pieces(entry, count, along, graph, path, store, used, pieces, filled):
    """Put the pieces of a segmentation to those of others; returns path, pieces and their number.

    Args:
        entry: its entry in the first list.
        count: segments of the best path.
        along, graph, path, store, used: as for :func:`find_way`.
        pieces: (2, n) ranges of segments.
        filled: how many there are.
    """
    (lists, wholes, _, ways, _), inside, first, here = store, path[1], filled, 0
    pieces, filled = add_piece(0, segment_at(lists[0, M.STEP], inside), first, pieces, filled)
    while entry != NONE:
        edge, before = ways[entry, M.CHOSEN], ways[entry, M.BEFORE]
        if wholes[edge, M.BELOW] == UNKNOWN:  # and nobody asks for another way by it
            path, _ = find_way(edge, here, along, -1.0, 0, graph, path, store, used)
        here, step = wholes[edge, M.BELOW], wholes[edge, M.JOIN]
        begin, stop = wholes[edge, M.FROM], wholes[edge, M.TO]
        pieces, filled = add_piece(begin, stop, first, pieces, filled)
        if step >= 0:
            stop = segment_at(lists[here, M.STEP], inside) if here != NONE else count
            pieces, filled = add_piece(segment_at(step, inside), stop, first, pieces, filled)
        entry = NONE
        if here != NONE:
            entry = lists[here, M.HEAD] if before == FIRST else before
    return path, pieces, filled


@compiled
def search(L, sizes, allowed, tables, best, scores):
    """The k best segmentations of a sequence, at least two, as pieces of a list of segments.

    Args:
        L: its positions.
        sizes: K, C, labels, and 1 if there are boundary scores.
        allowed: as :func:`kept_sweep` gives it.
        tables: nine. (C, C) transitions: its work array, the tail by its labels or an empty array,
            and empty ones. (K, C, C): scores, start and end scores, the values and steps that
            viterbi keeps, transition, bias, start, end.
        best: the best score, a number.
        scores: (k,), full of -inf; filled as far as there are segmentations.

    Returns:
        (2, n) starts and labels of segments; (2, m) ranges of them, from the end of the sequence
        to its start; (2, k) for each segmentation how many ranges and how many segments it has.
    """
    plan = make_plan(sizes[0], sizes[1], sizes[2], sizes[3], (-tables[0].ctypes.data % 64) // 8)
    K, k, used = plan.K * (plan.labels if len(tables[3]) else 1), len(scores), np.zeros(4, np.int64)
    graph = L, allowed, tables, plan, np.empty(max(K, plan.labels) + 2 * LANES)
    segments = np.empty((2, L), np.int32)
    count, choices, chosen, bound = best_path(graph, np.empty(k - 1), segments)
    store = open_along(graph, choices[:, :chosen], bound, k, used)
    path = segments, segments_at(L, segments, count), np.zeros((2, 64), np.int64)
    along, used[SEGMENTS], chain = used[LISTS], count, np.empty((1, 64), np.int64)
    scores[0], reached = best, 1
    while reached < k and along > 0:
        here, depth, edge = 0, 0, UNKNOWN
        while edge != NONE:
            chain = grown(chain, used[LISTS] + 1)
            edge, depth = ask(here, depth, chain, store)
            if edge != NONE:
                depth, room = depth - 1, k - reached + 1
                here = chain[0, depth]
                path, store = find_way(edge, here, along, bound, room, graph, path, store, used)
        store = roomy(store, used, 0, depth)
        answer(chain, depth, store, used)
        if store[0][0, M.DONE] == 1:
            break
        scores[reached] = best - store[4][store[0][0, M.LAST], M.DEFICIT]
        reached += 1
    pieces, filled, spans = np.empty((2, 64), np.int64), 0, np.zeros((2, k), np.int64)
    entry = store[0][0, M.HEAD]
    for i in range(reached):
        first = filled
        if along > 0:
            path, pieces, filled = add_pieces(
                entry, count, along, graph, path, store, used, pieces, filled
            )
            entry = store[3][entry, M.NEXT]
        else:
            pieces, filled = add_piece(0, count, first, pieces, filled)
        spans[0, i] = filled - first
        for j in range(first, filled):
            spans[1, i] += pieces[1, j] - pieces[0, j]
    return path[0], pieces, spans


@compiled
def write_paths(segments, pieces, spans, L, table):
    """Write segmentations from their pieces into a table (3, k, N), and -1 after them."""
    piece = 0
    for i in range(table.shape[1]):
        to, stop = spans[1, i], L
        for j in range(to, table.shape[2]):
            table[0, i, j] = table[1, i, j] = table[2, i, j] = -1
        for _ in range(spans[0, i]):
            for at in range(pieces[0, piece], pieces[1, piece]):
                to -= 1
                table[0, i, to] = segments[0, at]
                table[1, i, to] = stop
                table[2, i, to] = segments[1, at]
                stop = segments[0, at]
            piece += 1
