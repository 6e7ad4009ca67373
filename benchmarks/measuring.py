"""One size and phase: every call is compared with the truth, then those that are right are timed.

A peer whose first call takes longer than SLOW seconds is not called again: that call is its time.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from peers import Peer
from rows import Row, measured_row, new_row, with_ratios
from timing import interleave, timed
from truth import Truth, Verdict, differs, verdict_of
from workload import OURS, Call, Size, our_call

SLOW = 20.0


class Step(NamedTuple):
    """What is measured together.

    Args:
        case: which set of sizes it belongs to.
        size: of the inputs.
        phase: one of workload.PHASES.
        peers: whom to measure beside us.
        peer_threads: threads of torch in a peer's calls; None for as many as ours.
    """

    case: str
    size: Size
    phase: str
    peers: tuple[Peer, ...] = ()
    peer_threads: int | None = None


@dataclass(frozen=True)
class Repeats:
    """How often each call is measured: ours, and a peer's."""

    ours: int = 15
    peers: int = 3


class _Checked(NamedTuple):
    call: Call
    verdict: Verdict
    first: float
    failure: str = ""


def measure(
    step: Step, truth: Truth, repeats: Repeats, say: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """The rows of one step: ours first, then one for each thing measured of each peer."""
    fitting = [peer for peer in step.peers if peer.fits(truth.workload)]
    absent = [_missing_row(step, peer) for peer in fitting if peer.missing()]
    calls = [our_call(truth.workload, step.phase)]
    for peer in fitting:
        if not peer.missing():
            found = peer.prepare(truth.workload, step.phase)
            calls.extend(replace(x, run=on_threads(x.run, step.peer_threads)) for x in found)
    checked = []
    for call in calls:
        say(f"{step.size} {step.phase}: checking {call.backend}, {call.measured}")
        checked.append(check(call, truth))
    say(f"{step.size} {step.phase}: timing")
    seconds = _times(checked, repeats)
    rows = [_row(step, one, seconds[_key(one)]) for one in checked]
    return with_ratios([*rows, *absent], OURS)


def on_threads(run: Callable[[], Any], threads: int | None) -> Callable[[], Any]:
    """The same function on another number of threads of torch; afterwards it is as before."""
    if threads is None:
        return run

    def pinned() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return pinned


def check(call: Call, truth: Truth) -> _Checked:
    """Run a call once, or twice where it must repeat its bits, and compare."""
    try:
        first, result = timed(call.run)
        verdict = verdict_of(call, result, truth)
        if not verdict.problem and call.repeats_bits:
            again = call.found(call.run())
            if differs(call.found(result), again):
                verdict = verdict._replace(problem="the same call gave other bits")
    except Exception as error:  # a call that fails is a row, and the others go on
        text = "".join(traceback.format_exception_only(error))
        return _Checked(call, Verdict(checked=""), 0.0, " ".join(text.split()))
    return _Checked(call, verdict, first)


def _times(checked: Sequence[_Checked], repeats: Repeats) -> dict[str, list[float]]:
    """Seconds by call; peers before us in each round, so that ours is the one that is warmed."""
    order = sorted(checked, key=lambda one: one.call.backend == OURS)
    counts = {_key(one): _count(one, repeats) for one in order}
    seconds = interleave({_key(one): one.call.run for one in order}, counts)
    for one in order:
        if _right(one) and _is_slow(one):
            seconds[_key(one)].append(one.first)
    return seconds


def _count(one: _Checked, repeats: Repeats) -> int:
    if not _right(one) or _is_slow(one):
        return 0
    return repeats.ours if one.call.backend == OURS else repeats.peers


def _right(one: _Checked) -> bool:
    return not (one.failure or one.verdict.problem)


def _is_slow(one: _Checked) -> bool:
    return one.call.backend != OURS and one.first >= SLOW


def _key(one: _Checked) -> str:
    return f"{one.call.backend}: {one.call.measured}"


def _row(step: Step, one: _Checked, seconds: list[float]) -> Row:
    call = one.call
    row = new_row(
        step.case, step.size, step.phase, call.backend,
        measured=call.measured, backend_version=call.version, dtype="float32",
    )  # fmt: skip
    if call.backend != OURS and step.peer_threads is not None:
        row["threads"] = step.peer_threads
    if one.failure:
        return {**row, "status": "error", "reason": one.failure}
    return measured_row(row, one.verdict, seconds)


def _missing_row(step: Step, peer: Peer) -> Row:
    return new_row(
        step.case, step.size, step.phase, peer.name, status="missing", reason=peer.missing(),
        dtype="float32",
    )  # fmt: skip
