"""One configuration after the other: memory first, then the comparison, then times in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gpu_card import Card, triton_version
from measuring import Repeats, check
from rows import with_times
from truth import Verdict
from workload import Call, Workload, draw

from memory_analysis import memory
from memory_analysis.judge import Oracle
from memory_analysis.memory import DTYPES, Facts, Task
from memory_analysis.output import BYTES, Row, new_row
from memory_analysis.plan import Config
from memory_analysis.ways import Staged, Way, call_of, reason_against, way_of
from torch_semimarkov.cli.timing import Clock, interleave, timed

# What must be known before a time is taken, and what is left of a call that fails.
Key = tuple[str, str]


@dataclass(frozen=True)
class Settings:
    """What holds for every configuration.

    Args:
        backends: names, in the order of the rows.
        phases: some of plan.PHASES.
        repeats: times for each.
        device: "cpu" or a CUDA device.
        dtype: "float32" or "float64".
        seed: of the inputs.
        verify: compare with the oracle before anything is timed.
        use_compile: ``triton`` trains through ``torch.compile``.
        limit: seconds that one call may take.
    """

    backends: tuple[str, ...]
    phases: tuple[str, ...] = ("both",)
    repeats: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    verify: bool = True
    use_compile: bool = True
    limit: float = 60.0

    def pairs(self) -> list[Key]:
        """Every backend and phase, in the order of the rows."""
        return [(backend, phase) for backend in self.backends for phase in self.phases]


@dataclass
class Ready:
    """A call that has passed, and the seconds of its first run."""

    call: Call
    first: float


def clock_of(device: str) -> Clock:
    """Measures the second stage of a call; between two events on CUDA."""
    inner = timed if device == "cpu" else Card().clock

    def clock(run: Any) -> tuple[float, Any]:
        if not isinstance(run, Staged):
            return inner(run)
        state = run.prepare()
        return inner(lambda: run.run(state))

    return clock


class Runner:
    """Measures configurations.

    Args:
        settings: of all of them.
        say: is told what happens now.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda _: None) -> None:
        self.settings, self.say = settings, say
        self.clock = clock_of(settings.device)

    def measure(self, config: Config) -> list[Row]:
        """The rows of one configuration, one for each backend and phase."""
        s = self.settings
        plain = draw(config.size, DTYPES[s.dtype], s.seed)
        oracle, load = Oracle(plain, config), plain.to(s.device)
        found: dict[Key, Row] = {}
        ready: dict[Key, Ready] = {}
        for backend in s.backends:
            for phase, row in self._without_times(backend, config, load, oracle, ready):
                found[backend, phase] = row
        self.say(f"{config}: timing")
        times = self._times(ready)
        return [_with_times(found[key], times.get(key, [])) for key in s.pairs()]

    def _without_times(
        self,
        backend: str,
        config: Config,
        load: Workload,
        oracle: Oracle,
        ready: dict[Key, Ready],
    ) -> Iterator[tuple[str, Row]]:
        """The rows of a backend before it is timed; ``ready`` gets the calls that may be."""
        s = self.settings
        reasons = {
            phase: reason_against(backend, load, config.semiring, phase) for phase in s.phases
        }
        can = tuple(phase for phase in s.phases if not reasons[phase])
        way, facts = None, {}
        if can:
            way = way_of(backend, load, config, s.use_compile)
            self.say(f"{config}: memory of {backend}")
            facts = self._memory(way, config, can)
        for phase in s.phases:
            row = new_row(config, backend, phase, dtype=s.dtype, seed=s.seed)
            row["triton"] = triton_version()
            if s.device != "cpu":
                row["device"] = torch.cuda.get_device_name(s.device)
            if reasons[phase]:
                yield phase, {**row, "status": "unavailable", "reason": reasons[phase]}
                continue
            row.update(measured=way.measured, backend_version=way.version)
            row.update({name: facts.get(phase, {}).get(name) for name in BYTES})
            if "status" in facts.get(phase, {}):
                yield phase, {**row, **_only(facts[phase], ("status", "reason"))}
                continue
            self.say(f"{config}: checking {backend}, {phase}")
            yield phase, self._checked(row, way, phase, oracle, ready)

    def _memory(self, way: Way, config: Config, phases: tuple[str, ...]) -> dict[str, Facts]:
        s = self.settings
        if s.device == "cpu":
            task = Task(way.backend, config, phases, s.dtype, s.seed, s.limit)
            return memory.in_a_new_process(task)
        return {phase: _on_cuda(way, phase) for phase in phases}

    def _checked(
        self, row: Row, way: Way, phase: str, oracle: Oracle, ready: dict[Key, Ready]
    ) -> Row:
        """A row with the comparison; its call is put into ``ready`` if the result is right."""
        judge = oracle.judge if self.settings.verify else _unjudged
        try:
            repeats = Repeats(clock=self.clock, compiles=self.settings.device != "cpu")
            one = check(call_of(way, phase), oracle, repeats, judge)
        except MemoryError as error:
            return {**row, "status": "oom", "reason": str(error) or "memory ran out"}
        if one.failure:
            lost = memory.is_out_of_memory(RuntimeError(one.failure))
            status = "oom" if lost or one.failure.startswith("MemoryError") else "error"
            return {**row, "status": status, "reason": one.failure[:300]}
        row.update(_only(one.verdict._asdict(), ("value_error", "gradient_error", "checked")))
        if one.verdict.problem:
            return {**row, "status": "wrong", "reason": one.verdict.problem}
        ready[way.backend, phase] = Ready(one.call, one.first)
        return row

    def _times(self, ready: dict[Key, Ready]) -> dict[Key, list[float]]:
        """Seconds of the calls that passed, in turns; a slow one gets fewer."""
        s = self.settings
        counts = {
            key: max(1, min(s.repeats, int(s.limit / 2 / max(one.first, 1e-9))))
            for key, one in ready.items()
        }
        return interleave({key: one.call.run for key, one in ready.items()}, counts, self.clock)


def _on_cuda(way: Way, phase: str) -> Facts:
    """The allocator's peak, or that memory ran out."""
    try:
        memory.on_cuda(way, phase)
        return memory.on_cuda(way, phase)
    except RuntimeError as error:
        torch.cuda.empty_cache()
        if not memory.is_out_of_memory(error):
            return {"status": "error", "reason": str(error)[:300]}
        return {"status": "oom", "reason": str(error).splitlines()[0][:200]}


def _unjudged(*_: Any) -> Verdict:
    return Verdict(checked="no")


def _only(facts: Facts, names: Sequence[str]) -> Facts:
    return {name: facts[name] for name in names}


def _with_times(row: Row, seconds: list[float]) -> Row:
    if not seconds:
        return row
    row = with_times(row, seconds)
    per_second = 1e9 / row.pop("ns_per_position")
    return {**row, "positions_per_s": per_second}
