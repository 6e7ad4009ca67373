"""Exact samples from the posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import NumericsError, ShapeError
from torch_semimarkov.functional.decode import refuse_impossible
from torch_semimarkov.functional.inputs import gather, nan_in
from torch_semimarkov.segments import Segments, as_count


def sample(
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
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    backend: str | None = None,
    validate_args: bool | None = None,
) -> Segments:
    """Segmentations drawn with their posterior probabilities: exact, and independent of each other.

    All samples share one pass over the sequences. The result carries no gradient.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores,
            tail, validate_args: as in :func:`log_partition`.
        num_samples: samples of each sequence, >= 1.
        generator: source of the random numbers, on the device of the scores; default torch's own.
            The same state gives the same samples.
        backend: as in :func:`log_partition`; ``explain(..., op="sample")`` says which backends
            sample. A backend draws the same samples from the same state whatever the number of
            threads; another backend draws others.

    Returns:
        Segments (num_samples, B).

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`; or num_samples is below 1, or
            ``generator`` is no generator.
        NumericsError: no segmentation of a sequence is possible, or its potentials hold NaN that
            ``validate_args=False`` let in; names the sequences.

    Source: forward filtering, backward sampling; Chib, Calculating posterior distributions and
    modal estimates in Markov mixture models, J. Econometrics 75, 1996.

    Two positions, one label, durations 1 and 2, all scores 0: a coin decides for one segment or
    two.

    >>> from torch import zeros
    >>> call = zeros(1, 2, 1), zeros(1, 1), zeros(2, 1)
    >>> drawn = sample(*call, num_samples=1000, generator=torch.Generator().manual_seed(0))
    >>> 450 < int((drawn.counts == 1).sum()) < 550
    True
    """
    num_samples = as_count("num_samples", num_samples)
    if generator is not None and not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise ShapeError(f"generator must be a torch.Generator or None, got {kind}")
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail,
        validate_args=validate_args,
    )  # fmt: skip
    bad = nan_in(p, validate_args)
    if bad is not None:
        names = ", ".join(str(b) for b in bad.nonzero()[:, 0].tolist())
        raise NumericsError(f"no samples can be drawn: the potentials of sequence {names} hold NaN")
    drawn = dispatch.sample(p, num_samples, generator, backend)
    if not torch.compiler.is_compiling():
        refuse_impossible(drawn.counts[0] == 0)
    return drawn
