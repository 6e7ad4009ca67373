"""The right answers in float64 for each semiring, and whether a call has found them."""

from __future__ import annotations

from functools import cached_property

import torch
from truth import CHAINED, Truth, Verdict, verdict_of
from workload import Call, Found, Workload

from memory_analysis import recurrences
from memory_analysis.plan import Config
from torch_semimarkov import log_partition


class Oracle(Truth):
    """Float64 on the rounded inputs, computed when it is first asked for.

    Log and max come from the recurrences in numpy. The entropy is that of the reference: its
    value must be log Z less the expected score, its gradient is a second derivative of log Z.

    Args:
        workload: on the CPU.
        config: semiring and size.
    """

    affordable = True

    def __init__(self, workload: Workload, config: Config) -> None:
        super().__init__(workload)
        self.semiring = config.semiring.lower()
        self.backend = "reference" if self.semiring == "entropy" else "numpy"

    @property
    def phase(self) -> str:
        """What the workload calls the semiring's terms."""
        return "viterbi" if self.semiring == "max" else "forward"

    @cached_property
    def arrays(self) -> recurrences.Terms:
        """The terms as numpy takes them."""
        return recurrences.Terms(**{name: x.numpy() for name, x in self.terms(self.phase).items()})

    @cached_property
    def value(self) -> Found:
        """Values alone."""
        return Found(torch.from_numpy(recurrences.value(self.arrays, self.semiring == "max")), {})

    @cached_property
    def partition(self) -> Found:
        """Log partition and its gradients."""
        value, found = recurrences.partition(self.arrays)
        gradients = {name: torch.from_numpy(x) for name, x in found.items()}
        weights = self.workload.transition.double().softmax(0)
        gradients[CHAINED] = gradients["transition"] + weights * gradients["start"]
        return Found(torch.from_numpy(value), gradients)

    @cached_property
    def entropy(self) -> Found:
        """Entropies and their gradients."""
        terms = {name: x.requires_grad_() for name, x in self.terms("forward").items()}
        total = log_partition(**terms, **self.options)
        first = torch.autograd.grad(total.sum(), list(terms.values()), create_graph=True)
        parts = zip(terms.values(), first, strict=True)
        entropy = total.sum() - sum((x * g).sum() for x, g in parts)
        found = torch.autograd.grad(entropy, list(terms.values()))
        with torch.no_grad():
            value = log_partition(**self.terms("forward"), semiring="entropy", **self.options)
        right = float(entropy.detach())
        if abs(float(value.sum()) - right) > 1e-9 * max(1.0, abs(right)):
            raise ArithmeticError("the reference's entropy is not log Z less the expected score")
        return Found(value, dict(zip(terms, found, strict=True)))

    def of(self, phase: str) -> Found:
        """What a call of this phase must find; the gradients of max are judged as a path."""
        if self.semiring == "entropy":
            return self.entropy
        return self.value if self.semiring == "max" or phase == "forward" else self.partition

    def judge(self, call: Call, result: object, _: Truth | None = None) -> Verdict:
        """Compare a result with the right one."""
        found = call.found(result).to("cpu")
        if self.semiring != "max" or not found.gradients:
            return verdict_of(call, result, self)
        verdict = verdict_of(_without_gradients(call, found), None, self)
        error, problem = self._path(found, call)
        problems = "; ".join(filter(None, (verdict.problem, problem)))
        return verdict._replace(problem=problems, gradient_error=error)

    def _path(self, found: Found, call: Call) -> tuple[float, str]:
        """The gradient of a best score is a path: it must tile, and its score must be the best."""
        gradients = {name: x.double() for name, x in found.gradients.items()}
        leaves = self.terms("viterbi")
        if CHAINED in gradients:
            # the first segment's start is the transition from the source that is best
            gradients["transition"] = gradients.pop(CHAINED)
        if "duration_bias" not in gradients:
            # a model without durations: one bias for every position
            leaves["scores"] = leaves["scores"] + leaves["duration_bias"][0]
        score = sum((gradients[name] * leaves[name]).sum() for name in gradients)
        best = self.value.value.sum()
        error = float(((score - best) / best).abs())
        gap = float((gradients["scores"].sum(-1) - 1).abs().max())
        value_limit, gradient_limit = call.tolerance
        if error <= value_limit and gap <= gradient_limit:
            return max(error, gap), ""
        return max(error, gap), f"its path is off by {error:.1e} in score, {gap:.1e} in positions"


def _without_gradients(call: Call, found: Found) -> Call:
    alone = Found(found.value, {})
    return Call(
        call.backend, "forward", call.measured, call.version, call.run, lambda _: alone,
        call.tolerance,
    )  # fmt: skip
