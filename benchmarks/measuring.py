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
from truth import Truth, Verdict, differs, verdict_of
from workload import OURS, Call, Size, our_call

from torch_semimarkov.cli.timing import Clock, interleave, timed

SLOW = 20.0


class Step(NamedTuple):
    """What is measured together.

    Args:
        case: which set of sizes it belongs to.
        size: of the inputs.
        phase: one of workload.PHASES.
        peers: whom to measure beside us.
        peer_threads: threads of torch in a peer's calls; None for as many as ours.
        ours: our backend.
        device: where the calls run.
    """

    case: str
    size: Size
    phase: str
    peers: tuple[Peer, ...] = ()
    peer_threads: int | None = None
    ours: str = OURS
    device: str = "cpu"


@dataclass(frozen=True)
class Repeats:
    """How often each call is measured, and by what.

    Args:
        ours: times for ours.
        peers: times for a peer.
        clock: measures one call.
        compiles: a first call compiles, so the time of the second says whether a peer is slow.
    """

    ours: int = 15
    peers: int = 3
    clock: Clock = timed
    compiles: bool = False


_DEFAULT = Repeats()


class _Checked(NamedTuple):
    call: Call
    verdict: Verdict
    first: float
    failure: str = ""


def measure(
    step: Step, truth: Truth, repeats: Repeats, say: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """The rows of one step: ours first, then one for each thing measured of each peer."""
    load = truth.workload.to(step.device)
    fitting = [peer for peer in step.peers if peer.fits(load)]
    absent = [_missing_row(step, peer) for peer in fitting if peer.missing()]
    calls = [our_call(load, step.phase, backend=step.ours)]
    for peer in fitting:
        if not peer.missing():
            found = peer.prepare(load, step.phase)
            calls.extend(replace(x, run=on_threads(x.run, step.peer_threads)) for x in found)
    checked = []
    for call in calls:
        say(f"{step.size} {step.phase}: checking {call.backend}, {call.measured}")
        checked.append(check(call, truth, repeats))
    say(f"{step.size} {step.phase}: timing")
    seconds = _times(checked, repeats, step.ours)
    rows = [_row(step, one, seconds[_key(one)]) for one in checked]
    return with_ratios([*rows, *absent], step.ours)


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


def check(
    call: Call,
    truth: Truth,
    repeats: Repeats = _DEFAULT,
    judge: Callable[[Call, Any, Truth], Verdict] | None = None,
) -> _Checked:
    """Run a call once, or twice where it must repeat its bits, and compare.

    Args:
        call: what is measured later.
        truth: the right answers.
        repeats: its clock measures the first run.
        judge: compares a result with the truth; default ``verdict_of``.
    """
    try:
        if repeats.compiles:
            call.run()
        first, result = repeats.clock(call.run)
        verdict = (judge or verdict_of)(call, result, truth)
        if not verdict.problem and call.repeats_bits:
            again = call.found(call.run())
            if differs(call.found(result), again):
                verdict = verdict._replace(problem="the same call gave other bits")
    except Exception as error:  # a call that fails is a row, and the others go on
        text = "".join(traceback.format_exception_only(error))
        return _Checked(call, Verdict(checked=""), 0.0, " ".join(text.split()))
    return _Checked(call, verdict, first)


def _times(checked: Sequence[_Checked], repeats: Repeats, ours: str) -> dict[str, list[float]]:
    """Seconds by call; peers before us in each round, so that ours is the one that is warmed."""
    order = sorted(checked, key=lambda one: one.call.backend == ours)
    counts = {_key(one): _count(one, repeats, ours) for one in order}
    seconds = interleave({_key(one): one.call.run for one in order}, counts, repeats.clock)
    for one in order:
        if _right(one) and _is_slow(one, ours):
            seconds[_key(one)].append(one.first)
    return seconds


def _count(one: _Checked, repeats: Repeats, ours: str) -> int:
    if not _right(one) or _is_slow(one, ours):
        return 0
    return repeats.ours if one.call.backend == ours else repeats.peers


def _right(one: _Checked) -> bool:
    return not (one.failure or one.verdict.problem)


def _is_slow(one: _Checked, ours: str) -> bool:
    return one.call.backend != ours and one.first >= SLOW


def _key(one: _Checked) -> str:
    return f"{one.call.backend}: {one.call.measured}"


def _row(step: Step, one: _Checked, seconds: list[float]) -> Row:
    call = one.call
    row = new_row(
        step.case, step.size, step.phase, call.backend,
        measured=call.measured, backend_version=call.version, dtype="float32",
    )  # fmt: skip
    if call.backend != step.ours and step.peer_threads is not None:
        row["threads"] = step.peer_threads
    if one.failure:
        return {**row, "status": "error", "reason": one.failure}
    return measured_row(row, one.verdict, seconds)


def _missing_row(step: Step, peer: Peer) -> Row:
    return new_row(
        step.case, step.size, step.phase, peer.name, status="missing", reason=peer.missing(),
        dtype="float32",
    )  # fmt: skip
