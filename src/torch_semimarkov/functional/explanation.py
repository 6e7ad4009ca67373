"""Which backend would run a call, and why not the others."""

from __future__ import annotations

from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.functional.inputs import gather
from torch_semimarkov.semirings import Semiring, as_semiring


def explain(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    start: Tensor | None = None,
    end: Tensor | None = None,
    start_scores: Tensor | None = None,
    end_scores: Tensor | None = None,
    tail: Tensor | None = None,
    semiring: str | Semiring = "log",
    backend: str | None = None,
    op: str = "log_partition",
) -> dispatch.Explanation:
    """Say which backend would run a call, with the reasons against each of the others.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, tail,
            semiring, backend: the arguments of the call, as in :func:`log_partition`.
        op: "log_partition" (also for gradients and marginals), "tangent" (for entropies and second
            derivatives), "viterbi", "kbest", "sample", "messages", "max_marginals" or "stream".

    Returns:
        An object whose ``chosen`` is a name or None and whose text is a table of reasons.

    Raises:
        ShapeError: arguments that do not fit together.
        UnsupportedError: ``backend`` names no backend.

    >>> from torch import zeros
    >>> call = zeros(1, 2, 1), zeros(1, 1), zeros(2, 1)
    >>> explain(*call, backend="reference").chosen
    'reference'
    """
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail,
        validate_args=False,
    )  # fmt: skip
    name = semiring if isinstance(semiring, str) else as_semiring(semiring).name
    return dispatch.explain_op(op, p, name, backend)
