"""Grammars of labels given by their names: BIO, BIOES, or pairs that may follow each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torch_semimarkov.errors import ConfigError, raise_all


class Grammar(NamedTuple):
    """Which labels may follow each other, come first and come last.

    Its fields are named as the arguments of :func:`constrain` and of ``SemiMarkovCRFHead``, so
    ``**grammar._asdict()`` passes all three.

    allowed_transitions: (C, C) bool, [source, destination].
    allowed_first: (C,) bool.
    allowed_last: (C,) bool.
    """

    allowed_transitions: Tensor
    allowed_first: Tensor
    allowed_last: Tensor


def bio_transitions(labels: Sequence[str]) -> Grammar:
    """The grammar of BIO labels: ``I-x`` only after ``B-x`` or ``I-x``.

    Args:
        labels: C names, each "O", "B-x" or "I-x" of a type x.

    Raises:
        ConfigError: a name that is none of these, or twice the same.

    Source: Ramshaw and Marcus, Text chunking using transformation-based learning, 1995 (as IOB2).

    >>> bio_transitions(["O", "B-gene", "I-gene"]).allowed_transitions.int()
    tensor([[1, 1, 0],
            [1, 1, 1],
            [1, 1, 1]], dtype=torch.int32)
    """
    tags = _tags(labels, "BI", "O, B-x or I-x")

    def follows(source: tuple[str, str], destination: tuple[str, str]) -> bool:
        return destination[0] != "I" or (source[0] in "BI" and source[1] == destination[1])

    return _grammar(tags, follows, first="OB", last="OBI")


def bioes_transitions(labels: Sequence[str]) -> Grammar:
    """The grammar of BIOES labels: what ``B-x`` opens goes on in ``I-x`` until ``E-x`` closes it.

    Args:
        labels: C names, each "O", "B-x", "I-x", "E-x" or "S-x" of a type x.

    Raises:
        ConfigError: a name that is none of these, or twice the same.

    Source: Ratinov and Roth, Design challenges and misconceptions in named entity recognition,
    CoNLL 2009 (as BILOU).

    >>> found = bioes_transitions(["O", "B-gene", "E-gene", "S-gene"])
    >>> found.allowed_transitions[1].tolist(), found.allowed_last.tolist()
    ([False, False, True, False], [True, False, True, True])
    """
    tags = _tags(labels, "BIES", "O, B-x, I-x, E-x or S-x")

    def follows(source: tuple[str, str], destination: tuple[str, str]) -> bool:
        if source[0] in "BI":
            return destination[0] in "IE" and source[1] == destination[1]
        return destination[0] in "OBS"

    return _grammar(tags, follows, first="OBS", last="OES")


def transitions_from_names(
    labels: Sequence[str],
    allowed: Iterable[tuple[str, str]],
    first: Iterable[str] | None = None,
    last: Iterable[str] | None = None,
) -> Grammar:
    """A grammar from pairs of names.

    Args:
        labels: C names, in the order of the label numbers.
        allowed: pairs (source, destination) of names that may follow each other; all others may
            not.
        first, last: names that may come first and last; default all.

    Raises:
        ConfigError: a name that is not among the labels, or twice the same; every one is named.

    >>> grammar = transitions_from_names(["exon", "intron"], [("exon", "intron")], first=["exon"])
    >>> grammar.allowed_transitions.int()
    tensor([[0, 1],
            [0, 0]], dtype=torch.int32)
    """
    index, pairs = _index(labels), [tuple(pair) for pair in allowed]
    ends = {"first": first, "last": last}
    chosen = {key: list(labels if names is None else names) for key, names in ends.items()}
    problems = [
        f"allowed must hold pairs (source, destination), got {pair!r}"
        for pair in pairs
        if len(pair) != 2
    ]
    used = [name for pair in pairs for name in pair] + chosen["first"] + chosen["last"]
    unknown = [repr(name) for name in dict.fromkeys(used) if name not in index]
    if unknown:
        problems.append(f"{', '.join(unknown)} not among the labels {list(labels)}")
    raise_all(ConfigError, "not a grammar of these labels", problems)
    table = torch.zeros(len(index), len(index), dtype=torch.bool)
    for source, destination in pairs:
        table[index[source], index[destination]] = True
    at_ends = [torch.tensor([name in chosen[key] for name in labels]) for key in ("first", "last")]
    return Grammar(table, *at_ends)


def _index(labels: Sequence[str]) -> dict[str, int]:
    index = {name: i for i, name in enumerate(labels)}
    if len(index) != len(labels) or not labels:
        raise ConfigError(f"labels must be C >= 1 different names, got {list(labels)}")
    return index


def _tags(labels: Sequence[str], letters: str, expected: str) -> list[tuple[str, str]]:
    """The letter and the type of each label."""
    _index(labels)
    tags = [("O", "") if name == "O" else (name[:1], name[2:]) for name in labels]
    problems = [
        f"label {i} must be {expected}, got {name!r}"
        for i, (name, (letter, kind)) in enumerate(zip(labels, tags, strict=True))
        if name != "O" and (letter not in letters or not letter or name[1:2] != "-" or not kind)
    ]
    raise_all(ConfigError, "labels do not follow the scheme", problems)
    return tags


def _grammar(
    tags: list[tuple[str, str]],
    follows: Callable[[tuple[str, str], tuple[str, str]], bool],
    first: str,
    last: str,
) -> Grammar:
    table = [[follows(source, destination) for destination in tags] for source in tags]
    return Grammar(
        torch.tensor(table),
        torch.tensor([letter in first for letter, _ in tags]),
        torch.tensor([letter in last for letter, _ in tags]),
    )
