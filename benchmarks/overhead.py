"""What a call costs around its kernel, and what the checks of values cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from measuring import check
from rows import Row, new_row, with_times
from truth import Truth
from workload import OURS, PHASES, Size, Workload, our_call, with_gradients

import torch_semimarkov
from torch_semimarkov import log_partition, viterbi
from torch_semimarkov.cli.timing import interleave
from torch_semimarkov.dispatch.registry import load

SMALL = Size(1, 32, 4, 4)
CALLS = 500
KERNEL = "kernel"


def call_overhead(workload: Workload, phase: str, repeats: int) -> list[Row]:
    """Times of a small public call and of its compiled functions alone, and their difference.

    Args:
        workload: small, so that the kernel does not drown the rest.
        phase: one of PHASES; forward+backward are two calls, whose overheads add up.
        repeats: rounds; in each, every call is measured once, and the difference is taken.
    """
    runs = {
        KERNEL: _kernel(workload, phase),
        "validate_args=True": _public(workload, phase, True),
        "validate_args=False": _public(workload, phase, False),
    }
    for run in runs.values():
        run()
    seconds = interleave(runs, dict.fromkeys(runs, repeats))
    for name in list(runs)[1:]:
        pairs = zip(seconds[name], seconds[KERNEL], strict=True)
        seconds[f"overhead, {name}"] = [public - kernel for public, kernel in pairs]
    return [
        with_times(_row("overhead", workload, phase, name), times)
        for name, times in seconds.items()
    ]


def check_cost(workload: Workload, phase: str, repeats: int) -> list[Row]:
    """Times of our call with and without checks of values; the ratio is with to without."""
    runs = {
        f"validate_args={validate}": our_call(workload, phase, validate).run
        for validate in (False, True)
    }
    for run in runs.values():
        run()
    seconds = interleave(runs, dict.fromkeys(runs, repeats))
    rows = [
        with_times(_row("checks", workload, phase, name), times) for name, times in seconds.items()
    ]
    rows[1]["ratio"] = rows[1]["median_ms"] / rows[0]["median_ms"]
    return rows


def problem_of(truth: Truth, phase: str) -> str:
    """What is wrong with our call on this workload; empty if nothing is."""
    checked = check(our_call(truth.workload, phase), truth)
    return checked.failure or checked.verdict.problem


def wrong_row(case: str, workload: Workload, phase: str, reason: str) -> Row:
    """In the place of times."""
    return {**_row(case, workload, phase, ""), "status": "wrong", "reason": reason}


def _row(case: str, workload: Workload, phase: str, measured: str) -> Row:
    return new_row(
        case, workload.size, phase, OURS, measured=measured, dtype="float32",
        backend_version=torch_semimarkov.__version__,
    )  # fmt: skip


def _plain(workload: Workload) -> dict[str, torch.Tensor]:
    """The terms that every call has, without start scores."""
    return {name: x for name, x in workload.terms("forward").items() if name != "start"}


def _public(workload: Workload, phase: str, validate: bool) -> Callable[[], Any]:
    options = {"lengths": workload.lengths, "backend": OURS, "validate_args": validate}
    terms = _plain(workload)

    def value(*leaves: torch.Tensor) -> torch.Tensor:
        return log_partition(**dict(zip(terms, leaves, strict=True)), **options)

    if phase == PHASES[1]:
        return with_gradients(value, list(terms.values()))
    if phase == PHASES[2]:
        return lambda: viterbi(**terms, **options)
    return lambda: value(*terms.values())


def _kernel(workload: Workload, phase: str) -> Callable[[], Any]:
    """The compiled functions of a call, with the arguments that the backend gives them."""
    backend: Any = load(OURS)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            calls.append((function, arguments))
            return function(*arguments)

        return noted

    places = (backend.partition, "forward"), (backend.gradient, "backward"), (backend, "decode")
    with ExitStack() as stack:
        for place, name in places:
            stack.enter_context(mock.patch.object(place, name, noting(getattr(place, name))))
        _public(workload, phase, False)()

    def run() -> None:
        for function, arguments in calls:
            function(*arguments)

    return run
