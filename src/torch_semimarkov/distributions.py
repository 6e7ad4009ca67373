"""The semi-Markov CRF as a distribution of ``torch.distributions``, over whole segmentations."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from torch_semimarkov import functional
from torch_semimarkov.errors import ShapeError
from torch_semimarkov.functional import KBestResult, Marginals
from torch_semimarkov.functional.inputs import gather, wants_validation
from torch_semimarkov.functional.score import score_of
from torch_semimarkov.potentials import PER_POSITION, TERMS, Potentials
from torch_semimarkov.segments import PAD, Segments


class _Potential(constraints.Constraint):
    """A number, or -inf, which forbids."""

    def check(self, value: Tensor) -> Tensor:
        return value < torch.inf


potential = _Potential()


class Segmentation(constraints.Constraint):
    """Segments that tile their sequence and that the model does not forbid.

    Args:
        potentials: canonical; segmentations are of its B sequences.
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, potentials: Potentials) -> None:
        self._p = potentials
        super().__init__()

    def check(self, value: Segments) -> Tensor:
        """(..., B) bool, True for each segmentation that is possible."""
        p, mask = self._p, value.mask
        expected = torch.nn.functional.pad(value.ends[..., :-1], (1, 0))
        bad = (value.starts != expected) | (value.durations < 1)
        bad |= (value.labels < 0) | (value.labels >= p.C) | (value.ends > p.T)
        last = value.ends.gather(-1, (value.counts - 1).clamp(min=0)[..., None])[..., 0]
        tiles = ~(bad & mask).any(-1) & (value.counts > 0) & (last == p.lengths)
        with torch.no_grad():
            return tiles & (score_of(p, _where(tiles, value)) > -torch.inf)


def _where(keep: Tensor, segments: Segments) -> Segments:
    """The segmentations to keep, and no segments in the place of the others."""
    parts = (segments.starts, segments.ends, segments.labels)
    table = torch.stack([torch.where(keep[..., None], x, PAD) for x in parts])
    return Segments(*table, torch.where(keep, segments.counts, 0))


class SemiMarkovCRF(Distribution):
    """Segmentations with the probabilities of a semi-Markov CRF.

    A sample is :class:`Segments`; one segmentation is one event. The batch shape is (B,), and
    (..., B) after :meth:`expand`. Counts of samples are of shape ``sample_shape + batch_shape``.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, tail,
            backend: as in :func:`torch_semimarkov.log_partition`.
        validate_args: check the values of the potentials, and of segments that come in; default on
            CPU only, and nowhere after ``Distribution.set_default_validate_args(False)``.

    Raises:
        ShapeError: arguments that do not fit together; it is a ValueError.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    Two positions, one label, durations 1 and 2, all scores 0: a fair coin for one segment or two.

    >>> from torch import zeros
    >>> crf = SemiMarkovCRF(zeros(1, 2, 1), zeros(1, 1), zeros(2, 1))
    >>> crf.log_prob(crf.mode), crf.marginals.boundaries
    (tensor([-0.6931]), tensor([[1.0000, 0.5000]]))
    """

    has_rsample = False
    has_enumerate_support = False

    def __init__(
        self,
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
        backend: str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if validate_args is None and isinstance(scores, Tensor):
            validate_args = Distribution._validate_args and wants_validation(None, scores.device)
        self.scores, self.transition, self.duration_bias = scores, transition, duration_bias
        self.start, self.end, self.lengths = start, end, lengths
        self.start_scores, self.end_scores, self.tail = start_scores, end_scores, tail
        self.backend = backend
        gather(**self._terms(), validate_args=validate_args)
        super().__init__(scores.shape[:1], torch.Size(), validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # type: ignore[override]
        """Every term that is present; those at positions are checked inside the lengths only."""
        whole, inside = potential, constraints.dependent(is_discrete=False, event_dim=2)
        return {
            name: inside if name in PER_POSITION else whole
            for name in TERMS
            if getattr(self, name, None) is not None
        }

    @property
    def support(self) -> Segmentation:  # type: ignore[override]
        """The segmentations that are possible."""
        return Segmentation(self.potentials)

    @property
    def potentials(self) -> Potentials:
        """Every term of the score, canonical, of the B sequences of the last batch dimension."""
        return gather(**self._terms(), validate_args=False)

    @property
    def log_partition(self) -> Tensor:
        """batch_shape. In nats, differentiable; see :func:`torch_semimarkov.log_partition`."""
        return functional.log_partition(**self._call()).expand(self._batch_shape)

    @property
    def marginals(self) -> Marginals:
        """See :func:`torch_semimarkov.marginals`, with the batch shape in the place of B.

        ``transitions``, ``durations`` and ``beyond`` are sums over the whole batch shape.
        """
        found, copies = functional.marginals(**self._call()), prod(self._batch_shape[:-1])
        summed = ("transitions", "durations", "beyond")
        return Marginals(
            **{
                name: x * copies if name in summed else x.expand(*self._batch_shape, *x.shape[1:])
                for name, x in found._asdict().items()
            }
        )

    @property
    def mode(self) -> Segments:
        """The best segmentation of each sequence; see :func:`torch_semimarkov.viterbi`.

        Raises:
            NumericsError: no segmentation of a sequence is possible.
        """
        return self._batched(functional.viterbi(**self._call()).segments, ())

    def topk(self, k: int) -> KBestResult:
        """The k best segmentations; see :func:`torch_semimarkov.kbest`.

        Args:
            k: how many, >= 1.

        Returns:
            Scores and segmentations of shape ``(k, *batch_shape)``.

        Raises:
            ShapeError, NumericsError: as :func:`torch_semimarkov.kbest`.
        """
        best = functional.kbest(**self._call(), k=k)
        scores = best.scores.view(k, *(1,) * (len(self._batch_shape) - 1), -1)
        return KBestResult(scores.expand(k, *self._batch_shape), self._batched(best.segments, (k,)))

    def sample(
        self,
        sample_shape: torch.Size | tuple[int, ...] = torch.Size(),  # noqa: B008
        *,
        generator: torch.Generator | None = None,
    ) -> Segments:
        """Segmentations drawn with their probabilities, all from one pass over the sequences.

        Args:
            sample_shape: what comes before the batch shape.
            generator: source of the random numbers; default torch's own.

        Raises:
            NumericsError: no segmentation of a sequence is possible.

        >>> from torch import zeros
        >>> crf = SemiMarkovCRF(zeros(1, 2, 1), zeros(1, 1), zeros(2, 1))
        >>> crf.sample((5, 3)).counts.shape
        torch.Size([5, 3, 1])
        """
        lead = torch.Size(sample_shape) + self._batch_shape[:-1]
        if prod(lead) == 0:
            blank = self.scores.new_full((*lead, self._batch_shape[-1], 1), PAD, dtype=torch.int64)
            return Segments(blank, blank, blank, torch.zeros_like(blank[..., 0]))
        drawn = functional.sample(**self._call(), num_samples=prod(lead), generator=generator)
        return _map(drawn, lambda x: x.reshape(*lead, *x.shape[1:]))

    def log_prob(self, value: Segments) -> Tensor:
        """Log-probability of segmentations, differentiable in every term.

        Args:
            value: segmentations, whose counts (..., B) broadcast with the batch shape.

        Returns:
            The shape of the counts, broadcast with the batch shape; in nats, <= 0.

        Raises:
            ShapeError, SegmentError: with ``validate_args``, a segmentation of another batch, or
                one that is not possible; they are ValueErrors.
        """
        self._require_shape(value)
        if value.batch_size == 1:
            B = self.scores.shape[0]
            value = _map(value, lambda x: _expand_batch(x, B, value.counts.dim() - 1))
        found = functional.segment_log_prob(value, **self._call(), validate_segments=self._checked)
        return found.expand(torch.broadcast_shapes(found.shape, self._batch_shape))

    def entropy(self) -> Tensor:
        """batch_shape. In nats, differentiable; see :func:`torch_semimarkov.entropy`."""
        return functional.entropy(**self._call()).expand(self._batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SemiMarkovCRF:
        """The same distribution with a larger batch shape; no memory is taken.

        Args:
            batch_shape: (..., B), or (..., any) of a single sequence. Samples along new dimensions
                are independent.

        Raises:
            ShapeError: a shape that the batch shape does not broadcast to.
        """
        shape = torch.Size(batch_shape)
        B = self.scores.shape[0]
        old = self._batch_shape
        fits = len(shape) >= len(old) and all(
            a in (1, b) for a, b in zip(reversed(old), reversed(shape), strict=False)
        )
        if not fits:
            raise ShapeError(f"{tuple(old)} does not expand to a batch shape of {tuple(shape)}")
        new = self._get_checked_instance(SemiMarkovCRF, _instance)
        for name in (*TERMS, "lengths"):
            x = getattr(self, name)
            spread = x is not None and name in (*PER_POSITION, "lengths") and shape[-1] != B
            setattr(new, name, x.expand(shape[-1], *x.shape[1:]) if spread else x)
        new.backend = self.backend
        super(SemiMarkovCRF, new).__init__(shape, torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _checked(self) -> bool:
        return bool(self._validate_args)

    def _terms(self) -> dict[str, Any]:
        """The terms that are present, and the lengths."""
        terms = {name: getattr(self, name) for name in (*TERMS, "lengths")}
        return {name: x for name, x in terms.items() if x is not None}

    def _call(self) -> dict[str, Any]:
        """Arguments of the functions on potentials, whose values were looked at before."""
        return {**self._terms(), "backend": self.backend, "validate_args": False}

    def _batched(self, segments: Segments, before: tuple[int, ...]) -> Segments:
        """(*before, B) segmentations as (*before, *batch_shape)."""
        ones = (1,) * (len(self._batch_shape) - 1)
        shape = (*before, *self._batch_shape)

        def spread(x: Tensor) -> Tensor:
            rest = x.shape[len(before) + 1 :]
            return x.reshape(*before, *ones, -1, *rest).expand(*shape, *rest)

        return _map(segments, spread)

    def _require_shape(self, value: object) -> None:
        if not isinstance(value, Segments):
            raise ShapeError(f"value must be Segments, got {type(value).__name__}")
        try:
            torch.broadcast_shapes(value.counts.shape, self._batch_shape)
            fits = value.batch_size in (1, self.scores.shape[0])
        except RuntimeError:
            fits = False
        if not fits:
            raise ShapeError(
                f"value must hold segmentations that broadcast with the batch shape "
                f"{tuple(self._batch_shape)}, got {tuple(value.counts.shape)}"
            )


def _map(segments: Segments, change: Any) -> Segments:
    parts = (segments.starts, segments.ends, segments.labels, segments.counts)
    return Segments(*(change(x) for x in parts))


def _expand_batch(x: Tensor, B: int, axis: int) -> Tensor:
    return x.expand(*x.shape[:axis], B, *x.shape[axis + 1 :])


@register_kl(SemiMarkovCRF, SemiMarkovCRF)
def _kl(p: SemiMarkovCRF, q: SemiMarkovCRF) -> Tensor:
    """Of the broadcast batch shapes; see :func:`torch_semimarkov.kl_divergence`."""
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    p, q = p.expand(shape), q.expand(shape)
    found = functional.kl_divergence(p.potentials, q.potentials, backend=p.backend)
    return found.expand(shape)
