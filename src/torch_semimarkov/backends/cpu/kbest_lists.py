"""Lists of the best ways to a node, each filled only as far as somebody asks for its next entry.

What a way loses against the best one to its node is its deficit: that of its last edge and that of
the way before, so no long sums are compared. The next best way to a node takes the same last edge
as the last one found and the next best way to where the edge comes from, or another edge. So the k
best of the sequence ask for one more entry of a chain of nodes each. A node with one edge that
matters has the ways of the node before it, and so needs no list.

Source: Jimenez and Marzal, Computing the K shortest paths, WAE 1999 (recursive enumeration).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torch_semimarkov.backends.cpu.compile import inlined, part
from torch_semimarkov.backends.cpu.growing import longer
from torch_semimarkov.backends.cpu.kbest_edges import (
    edge_from,
    has_pairs,
    loss_of,
    tail_from,
)


class Columns(NamedTuple):
    """Columns of the five tables; a list, an edge and an entry take a row each."""

    NODE: int = 0  # of a list: its node,
    STEP: int = 1  # its step if it is on the best path, or -1,
    EDGES: int = 2  # the first of its edges,
    COUNT: int = 3  # how many there are,
    HEAD: int = 4  # its first entry,
    LAST: int = 5  # the last one found,
    DONE: int = 6  # and 1 if there are no more
    PRED: int = 0  # of an edge: the node that it comes from,
    BELOW: int = 1  # the list with the ways to there,
    JOIN: int = 2  # the step at which the best path is met on the way to that list, or -1,
    FROM: int = 3  # the segments on the way to there, as a range of all that are kept,
    TO: int = 4
    NEXT_WAY: int = 5  # the entry below of the way by it that is not in the list yet
    LOSS: int = 0  # its own deficit,
    TOTAL: int = 1  # and that of this way; inf if there is none
    CHOSEN: int = 0  # of an entry: its last edge,
    BEFORE: int = 1  # the entry of the list below that goes on,
    NEXT: int = 2  # and the next entry of its own list
    DEFICIT: int = 0


M = Columns()
# Of an edge: nobody knows its list yet. There is none: of a list, since no choice is left.
UNKNOWN, NONE = -2, -1
# The first entry of a list that nobody knows yet.
FIRST = -2
# Where ``used`` counts the lists, edges, entries and segments.
LISTS, EDGES, ENTRIES, SEGMENTS = 0, 1, 2, 3


@part
def empty_store():
    """Lists, edges, their losses, entries, their deficits; with room for a few."""
    return (
        np.empty((16, 7), np.int64),
        np.empty((64, 6), np.int64),
        np.empty((64, 2)),
        np.empty((64, 3), np.int64),
        np.empty((64, 1)),
    )


@part
def roomy(store, used, edges, entries):
    """The store with room for one more list, and so many edges and entries more."""
    lists, wholes, reals, ways, deficits = store
    return (
        longer(lists, used[LISTS] + 1),
        longer(wholes, used[EDGES] + edges),
        longer(reals, used[EDGES] + edges),
        longer(ways, used[ENTRIES] + entries),
        longer(deficits, used[ENTRIES] + entries),
    )


@inlined
def insert(loss, edge, first, count, room, wholes, reals):
    """Put an edge among those of a list, of which the ``room`` best stay; returns their number.

    They are in order of their loss; of equal ones the first to come stays first.
    """
    if count < room or loss < reals[first + room - 1, M.LOSS]:
        count = min(count + 1, room)
        at = first + count - 1
        while at > first and reals[at - 1, M.LOSS] > loss:
            reals[at, M.LOSS] = reals[at - 1, M.LOSS]
            wholes[at, M.PRED] = wholes[at - 1, M.PRED]
            at -= 1
        reals[at, M.LOSS] = loss
        wholes[at, M.PRED] = edge
    return count


@part
def open_list(node, step, count, top, near, bound, room, graph, store, used):
    """Start the list of a node with its best way; returns the store.

    Args:
        node: the node.
        step: its step if it is on the best path, or -1.
        count, top, near: what :func:`weighed` has just said of its edges.
        bound: the most that an edge may lose.
        room: edges that are kept at most.
        graph: as for :func:`weighed`.
        store, used: the tables, and how many rows of each are used.
    """
    _, _, tables, plan, values = graph
    pairs, labels, tail = has_pairs(tables), plan.labels, tail_from(tables, plan)
    store = roomy(store, used, min(room, count), 1)
    lists, wholes, reals, ways, deficits = store
    first, kept, here, entry = used[EDGES], 0, used[LISTS], used[ENTRIES]
    for i in range(count):
        loss = loss_of(values[i], top, near)
        if loss < np.inf and loss <= bound:
            kept = insert(loss, i, first, kept, room, wholes, reals)
    for edge in range(first, first + kept):
        wholes[edge, M.PRED] = edge_from(node, wholes[edge, M.PRED], pairs, labels, tail)
        wholes[edge, M.BELOW], wholes[edge, M.NEXT_WAY] = UNKNOWN, FIRST
        reals[edge, M.TOTAL] = reals[edge, M.LOSS]
    lists[here, M.NODE], lists[here, M.STEP] = node, step
    lists[here, M.EDGES], lists[here, M.COUNT] = first, kept
    lists[here, M.HEAD], lists[here, M.LAST], lists[here, M.DONE] = entry, entry, 0
    ways[entry, M.CHOSEN], ways[entry, M.BEFORE], ways[entry, M.NEXT] = first, FIRST, NONE
    deficits[entry, M.DEFICIT] = reals[first, M.LOSS]
    used[LISTS], used[EDGES], used[ENTRIES] = here + 1, first + kept, entry + 1
    return store


@part
def ask(here, depth, chain, store):
    """Note which list waits for which, until one need not, or an edge does not know its list.

    Args:
        here: the list that is asked for its next entry.
        depth: how many wait already.
        chain: gets those that wait, each for the one after it.
        store: the tables.

    Returns:
        The edge that does not know its list, or NONE; how many wait.
    """
    lists, wholes, _, ways, _ = store
    while here != NONE:
        chain[0, depth] = here
        depth += 1
        edge = ways[lists[here, M.LAST], M.CHOSEN]
        here, entry = wholes[edge, M.BELOW], wholes[edge, M.NEXT_WAY]
        if here == UNKNOWN:
            return edge, depth
        if here != NONE:
            entry = lists[here, M.HEAD] if entry == FIRST else entry
            if ways[entry, M.NEXT] != NONE or lists[here, M.DONE] == 1:
                here = NONE
    return NONE, depth


@part
def answer(chain, depth, store, used):
    """Find the next entry of every list of a chain, of which each waits for the one after it."""
    # one body without calls: each would count the references to all tables
    lists, wholes, reals, ways, deficits = store
    for i in range(depth - 1, -1, -1):
        here = chain[0, i]
        last, first = lists[here, M.LAST], lists[here, M.EDGES]
        edge = ways[last, M.CHOSEN]  # which stands for its next way now, if there is one
        below, entry = wholes[edge, M.BELOW], NONE
        if below != NONE:
            entry = wholes[edge, M.NEXT_WAY]
            entry = ways[lists[below, M.HEAD] if entry == FIRST else entry, M.NEXT]
        wholes[edge, M.NEXT_WAY], reals[edge, M.TOTAL] = entry, np.inf
        if entry != NONE:
            reals[edge, M.TOTAL] = reals[edge, M.LOSS] + deficits[entry, M.DEFICIT]
        best, least = NONE, np.inf
        for j in range(first, first + lists[here, M.COUNT]):
            if reals[j, M.LOSS] >= least:  # and so those after it
                break
            if reals[j, M.TOTAL] < least:
                best, least = j, reals[j, M.TOTAL]
        if best == NONE:
            lists[here, M.DONE] = 1
            continue
        entry = used[ENTRIES]
        ways[entry, M.CHOSEN], ways[entry, M.BEFORE] = best, wholes[best, M.NEXT_WAY]
        ways[entry, M.NEXT], deficits[entry, M.DEFICIT] = NONE, least
        ways[last, M.NEXT] = lists[here, M.LAST] = entry
        used[ENTRIES] = entry + 1
