"""Lists of the best ways to a node, each filled only as far as somebody asks for its next entry.

A node is a position and a label where a segment ends, or where one is entered; node 0 is the end of
the sequence. What a way loses against the best one to its node is its deficit: that of its last
edge and that of the way before, so no long sums are compared. The next best way to a node takes the
same last edge as the last one found and the next best way to where the edge comes from, or another
edge. So the k best of the sequence ask for one more entry of a chain of nodes each, and nodes that
no such chain meets have no list.

Source: Jimenez and Marzal, Computing the K shortest paths, WAE 1999 (recursive enumeration).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torch_semimarkov.backends.cpu.compile import part, small


class Columns(NamedTuple):
    """Rows of the three tables; an edge and an entry of a list take one column each."""

    FIRST: int = 0  # of a node: its first column,
    ROOM: int = 1  # how many columns it has,
    COUNT: int = 2  # edges in them,
    GOT: int = 3  # entries found,
    DONE: int = 4  # and 1 if there are no more
    LOSS: int = 0  # of an edge: its own deficit,
    TOTAL: int = 1  # and that of the best way by it that is not in the list; inf if there is none
    DEFICIT: int = 2  # of an entry
    PRED: int = 0  # node that an edge comes from, 0 for the start of the sequence
    RANK: int = 1  # place in its list of the way that TOTAL is of
    CHOSEN: int = 2  # of an entry: its last edge
    PLACE: int = 3  # and its place in the list that this edge comes from


M = Columns()


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
def insert(loss, pred, first, count, room, reals, wholes):
    """Put an edge among those of a node, of which the ``room`` best stay; returns their number.

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
    wholes[M.PRED, at] = pred
    return count + 1


@part
def open_list(slot, first, count, room, nodes, reals, wholes):
    """Start the list of a node, whose edges are in its columns, with the best way."""
    nodes[M.FIRST, slot], nodes[M.ROOM, slot], nodes[M.COUNT, slot] = first, room, count
    nodes[M.GOT, slot], nodes[M.DONE, slot] = 0, 0
    for i in range(first, first + count):
        reals[M.TOTAL, i] = reals[M.LOSS, i]
        wholes[M.RANK, i] = 0
    find_next(slot, nodes, reals, wholes)


@part
def find_next(slot, nodes, reals, wholes):
    """Add the best way that is not in the list yet, if there is one."""
    first, got, best = nodes[M.FIRST, slot], nodes[M.GOT, slot], -1
    least = np.inf
    for i in range(first, first + nodes[M.COUNT, slot]):
        if reals[M.LOSS, i] >= least:  # and so those after it
            break
        if reals[M.TOTAL, i] < least:
            best, least = i, reals[M.TOTAL, i]
    if best < 0 or got == nodes[M.ROOM, slot]:
        nodes[M.DONE, slot] = 1
        return
    reals[M.DEFICIT, first + got] = least
    wholes[M.CHOSEN, first + got] = best
    wholes[M.PLACE, first + got] = wholes[M.RANK, best]
    nodes[M.GOT, slot] = got + 1


@small
def last_edge(slot, nodes, wholes):
    """The last edge of the last way in a list."""
    return wholes[M.CHOSEN, nodes[M.FIRST, slot] + nodes[M.GOT, slot] - 1]


@part
def move_on(edge, below, place, nodes, reals, wholes):
    """Let an edge stand for the way at ``place`` of the list below; for none if that has ended."""
    if place < nodes[M.GOT, below]:
        before = reals[M.DEFICIT, nodes[M.FIRST, below] + place]
        reals[M.TOTAL, edge] = reals[M.LOSS, edge] + before
        wholes[M.RANK, edge] = place
    else:
        reals[M.TOTAL, edge] = np.inf


@part
def whom_to_ask(slot, slots, nodes, reals, wholes):
    """The node whose next entry this list waits for; -1 if it need not wait."""
    edge = last_edge(slot, nodes, wholes)
    pred, place = wholes[M.PRED, edge], wholes[M.RANK, edge] + 1
    if pred == 0:
        reals[M.TOTAL, edge] = np.inf
        return -1
    below = slots[pred]
    if below >= 0 and (nodes[M.GOT, below] > place or nodes[M.DONE, below] == 1):
        move_on(edge, below, place, nodes, reals, wholes)
        return -1
    return pred


@part
def answer(chain, depth, nodes, reals, wholes):
    """Find the next entry of every list of a chain, of which each waits for the one after it."""
    for i in range(depth - 1, -1, -1):
        find_next(chain[i], nodes, reals, wholes)
        if i > 0:
            edge = last_edge(chain[i - 1], nodes, wholes)
            move_on(edge, chain[i], wholes[M.RANK, edge] + 1, nodes, reals, wholes)


@part
def turn_round(found, first, stop):
    """Reverse the columns from ``first`` on and before ``stop``."""
    for row in range(found.shape[0]):
        i, j = first, stop - 1
        while i < j:
            found[row, i], found[row, j] = found[row, j], found[row, i]
            i, j = i + 1, j - 1
