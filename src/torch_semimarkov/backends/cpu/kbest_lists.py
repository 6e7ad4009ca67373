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

from torch_semimarkov.backends.cpu.compile import part, small
from torch_semimarkov.backends.cpu.kbest_edges import edge_from, loss_of


class Columns(NamedTuple):
    """Rows of the five tables; a list, an edge and an entry take a column each."""

    NODE: int = 0  # of a list: its node,
    STEP: int = 1  # the step of the best path that it is, or -1,
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
# Of an edge: nobody knows its list yet; there is none, since no choice is left.
UNKNOWN, NONE = -2, -1
# The first entry of a list that may not be there yet.
FIRST = -1
# Where ``used`` counts the lists, edges, entries and segments.
LISTS, EDGES, ENTRIES, SEGMENTS = 0, 1, 2, 3


@part
def grown(table, count):
    """The table, or a larger copy if it has fewer than ``count`` columns."""
    rows, columns = table.shape
    if count <= columns:
        return table
    larger = np.empty((rows, max(count, 2 * columns)), table.dtype)
    for row in range(rows):
        for i in range(columns):
            larger[row, i] = table[row, i]
    return larger


@part
def empty_store():
    """Lists, edges, their losses, entries, their deficits; with room for a few."""
    return (
        np.empty((7, 16), np.int64),
        np.empty((6, 64), np.int64),
        np.empty((2, 64)),
        np.empty((3, 64), np.int64),
        np.empty((1, 64)),
    )


@part
def roomy(store, used, edges, entries):
    """The store with room for one more list, and so many edges and entries more."""
    lists, wholes, reals, ways, deficits = store
    return (
        grown(lists, used[LISTS] + 1),
        grown(wholes, used[EDGES] + edges),
        grown(reals, used[EDGES] + edges),
        grown(ways, used[ENTRIES] + entries),
        grown(deficits, used[ENTRIES] + entries),
    )


@part
def insert(loss, edge, first, count, room, wholes, reals):
    """Put an edge among those of a list, of which the ``room`` best stay; returns their number.

    They are in order of their loss; of equal ones the first to come stays first.
    """
    if count == room:
        if loss >= reals[M.LOSS, first + room - 1]:
            return count
        count -= 1
    at = first + count
    while at > first and reals[M.LOSS, at - 1] > loss:
        reals[M.LOSS, at] = reals[M.LOSS, at - 1]
        wholes[M.PRED, at] = wholes[M.PRED, at - 1]
        at -= 1
    reals[M.LOSS, at] = loss
    wholes[M.PRED, at] = edge
    return count + 1


@part
def open_list(node, step, count, top, near, bound, room, graph, store, used):
    """Start the list of a node with its best way; returns the store.

    Args:
        node: the node.
        step: the step at which the best path passes it, or -1.
        count, top, near: what :func:`weigh` has just said of its edges.
        bound: the most that an edge may lose.
        room: edges that are kept at most.
        graph: as for :func:`weigh`.
        store, used: the tables, and how many columns of each are used.
    """
    values, store = graph[4], roomy(store, used, min(room, count), 1)
    lists, wholes, reals, _, _ = store
    first, kept, here = used[EDGES], 0, used[LISTS]
    for i in range(count):
        loss = loss_of(values[i], top, near)
        if loss < np.inf and loss <= bound:
            kept = insert(loss, i, first, kept, room, wholes, reals)
    for edge in range(first, first + kept):
        wholes[M.PRED, edge] = edge_from(node, wholes[M.PRED, edge], graph)
        wholes[M.BELOW, edge], wholes[M.NEXT_WAY, edge] = UNKNOWN, FIRST
        reals[M.TOTAL, edge] = reals[M.LOSS, edge]
    lists[M.NODE, here], lists[M.STEP, here] = node, step
    lists[M.EDGES, here], lists[M.COUNT, here] = first, kept
    lists[M.DONE, here], lists[M.LAST, here] = 0, FIRST
    used[LISTS], used[EDGES] = here + 1, first + kept
    find_next(here, store, used)
    return store


@part
def find_next(here, store, used):
    """Add the best way that is not in a list yet, if there is one."""
    lists, wholes, reals, ways, deficits = store
    first, best, least = lists[M.EDGES, here], -1, np.inf
    for i in range(first, first + lists[M.COUNT, here]):
        if reals[M.LOSS, i] >= least:  # and so those after it
            break
        if reals[M.TOTAL, i] < least:
            best, least = i, reals[M.TOTAL, i]
    if best < 0:
        lists[M.DONE, here] = 1
        return
    entry, last = used[ENTRIES], lists[M.LAST, here]
    ways[M.CHOSEN, entry], ways[M.BEFORE, entry] = best, wholes[M.NEXT_WAY, best]
    ways[M.NEXT, entry], deficits[M.DEFICIT, entry] = -1, least
    if last < 0:
        lists[M.HEAD, here] = entry
    else:
        ways[M.NEXT, last] = entry
    lists[M.LAST, here], used[ENTRIES] = entry, entry + 1


@small
def last_edge(here, store):
    """The last edge of the last way in a list."""
    return store[3][M.CHOSEN, store[0][M.LAST, here]]


@part
def whom_to_ask(edge, store):
    """The list that an edge waits for; NONE if it need not, and stands for its next way now."""
    lists, wholes, reals, ways, deficits = store
    below, entry = wholes[M.BELOW, edge], wholes[M.NEXT_WAY, edge]
    if below == NONE:
        reals[M.TOTAL, edge] = np.inf
        return NONE
    entry = ways[M.NEXT, lists[M.HEAD, below] if entry == FIRST else entry]
    if entry >= 0:
        reals[M.TOTAL, edge] = reals[M.LOSS, edge] + deficits[M.DEFICIT, entry]
        wholes[M.NEXT_WAY, edge] = entry
    elif lists[M.DONE, below] == 1:
        reals[M.TOTAL, edge] = np.inf
    else:
        return below
    return NONE


@part
def answer(chain, depth, store, used):
    """Find the next entry of every list of a chain, of which each waits for the one after it."""
    for i in range(depth - 1, -1, -1):
        find_next(chain[0, i], store, used)
        if i > 0:
            whom_to_ask(last_edge(chain[0, i - 1], store), store)


@part
def turn_round(found, first, stop):
    """Reverse the columns from ``first`` on and before ``stop``."""
    for row in range(found.shape[0]):
        i, j = first, stop - 1
        while i < j:
            found[row, i], found[row, j] = found[row, j], found[row, i]
            i, j = i + 1, j - 1
