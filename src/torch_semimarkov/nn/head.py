"""The semi-Markov CRF as a layer on top of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_semimarkov import functional
from torch_semimarkov.durations import DurationSource, create_duration_distribution
from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.functional import ViterbiResult
from torch_semimarkov.functional.constraints import Constrained, restrict
from torch_semimarkov.functional.exact import EDGE_MEMORY, STREAMING, Route
from torch_semimarkov.functional.inputs import wants_validation
from torch_semimarkov.functional.known import checked_boundaries
from torch_semimarkov.functional.masks import (
    PerLabel,
    duration_mask,
    label_mask,
    transition_mask,
)
from torch_semimarkov.nn.checks import require_finite, require_partition, watch_gradient
from torch_semimarkov.nn.inside import inside_lengths
from torch_semimarkov.nn.losses import GRADIENT_REMEDY, LikelihoodLoss
from torch_semimarkov.nn.queries import PosteriorQueries
from torch_semimarkov.nn.routes import (
    at_least_float32,
    route_of,
    streaming_backend,
    total_of,
    triton_or_not,
    widest,
)
from torch_semimarkov.segments import as_count, require_tensors
from torch_semimarkov.semirings import Semiring

_ENCODER = "check the encoder's input, its learning rate and gradient clipping"
_PROJECTION = "check the projection's weights; lower the learning rate"
_PARAMETER = "an earlier step spoilt it: load a checkpoint, lower the learning rate, clip gradients"


class SemiMarkovCRFHead(LikelihoodLoss, PosteriorQueries, nn.Module):
    """A probability over segmentations with explicit durations, on top of an encoder.

    Args:
        num_classes: labels C >= 1.
        max_duration: longest duration K >= 1, in positions; 1 gives a linear-chain CRF.
        hidden_dim: size of the encoder's output, projected to label scores; None if the head is
            given (B, T, C) scores.
        init_scale: standard deviation of the initial transitions and learned durations, >= 0.
        duration_distribution: see :func:`torch_semimarkov.create_duration_distribution`.
        edge_memory_threshold: bytes of the edge tensor from which on the exact path refuses.
        boundary_scores: also project the hidden states to scores of starting and ending a segment.
        allowed_transitions: (C, C) bool, [source, destination]; default all allowed.
        allowed_first, allowed_last: (C,) bool. Labels of the first and the last segment; default
            all. :func:`torch_semimarkov.bio_transitions` and others give all three.
        min_duration: shortest duration, one for all labels or one a label; default 1.
        label_max_duration: longest duration of each label, <= max_duration.
        duration_mean: initial mean duration in positions, >= 1, one for all labels or one a label;
            default (K + 1) / 2. Only for the duration distributions that have a mean.
        tail: "geometric" lets segments be longer than K: each further position costs a learned
            ``logsigmoid(tail_logit)`` < 0 of its label, at first K of them on average; not the
            labels that ``label_max_duration`` limits below K. Default None: no longer ones.
        validate_args: look for NaN and Inf, check lengths and labels; default on CPU only.

    Raises:
        ConfigError: a setting out of its range.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    >>> head = SemiMarkovCRFHead(num_classes=2, max_duration=4, hidden_dim=8)
    >>> hidden = torch.randn(1, 6, 8)
    >>> loss = head.compute_loss(hidden, labels=torch.tensor([[0, 0, 1, 1, 1, 0]]))
    >>> bool(loss >= 0)
    True
    >>> head.decode(hidden).segments.to_labels(6).shape
    torch.Size([1, 6])
    """

    def __init__(
        self,
        num_classes: int,
        max_duration: int,
        hidden_dim: int | None = None,
        init_scale: float = 0.1,
        duration_distribution: DurationSource = "learned",
        edge_memory_threshold: float = EDGE_MEMORY,
        *,
        boundary_scores: bool = False,
        allowed_transitions: Tensor | Sequence[Sequence[bool]] | None = None,
        min_duration: PerLabel | None = None,
        label_max_duration: PerLabel | None = None,
        duration_mean: float | Sequence[float] | None = None,
        allowed_first: Tensor | Sequence[bool] | None = None,
        allowed_last: Tensor | Sequence[bool] | None = None,
        tail: str | None = None,
        validate_args: bool | None = None,
    ):
        super().__init__()
        _check_settings(boundary_scores, hidden_dim, tail)
        sizes = {"num_classes": num_classes, "max_duration": max_duration}
        C, K = (as_count(name, size, ConfigError) for name, size in sizes.items())
        if hidden_dim is not None:
            hidden_dim = as_count("hidden_dim", hidden_dim, ConfigError)
        if not edge_memory_threshold >= 0:
            raise ConfigError(f"edge_memory_threshold must be >= 0, got {edge_memory_threshold}")
        self.num_classes, self.max_duration, self.hidden_dim = C, K, hidden_dim
        self.validate_args, self.edge_memory_threshold = validate_args, edge_memory_threshold
        self.durations = create_duration_distribution(
            duration_distribution, K, C, init_scale=init_scale, mean=duration_mean
        )
        self.transition = nn.Parameter(init_scale * torch.randn(C, C))
        self.start = nn.Parameter(torch.zeros(C))
        self.end = nn.Parameter(torch.zeros(C))
        logit = torch.full((C,), float(K)).log()
        self.tail_logit = nn.Parameter(logit) if tail == "geometric" else None
        width = hidden_dim or C
        self.projection = nn.Identity() if hidden_dim is None else nn.Linear(width, C)
        self.start_projection = nn.Linear(width, C) if boundary_scores else None
        self.end_projection = nn.Linear(width, C) if boundary_scores else None
        if allowed_transitions is None:
            allowed_transitions = torch.ones(C, C, dtype=torch.bool)
        self.register_buffer("allowed_transitions", transition_mask(allowed_transitions, C))
        self.register_buffer(
            "allowed_durations", duration_mask(min_duration, label_max_duration, K, C)
        )
        for name, given in (("allowed_first", allowed_first), ("allowed_last", allowed_last)):
            given = torch.ones(C, dtype=torch.bool) if given is None else given
            self.register_buffer(name, label_mask(name, given, C))

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, max_duration={self.max_duration}"

    def potentials(self, hidden: Tensor, lengths: Tensor | None = None) -> dict[str, Any]:
        """Every term of the score, as keyword arguments for the functions on potentials.

        Args:
            hidden: (B, T, hidden_dim) float, or (B, T, C) scores if hidden_dim is None.
            lengths: (B,) int, 1 <= lengths <= T; default T. Positions past a length have no effect.

        Raises:
            ShapeError: a wrong shape, or lengths out of range.
            NumericsError: NaN or Inf in the hidden states, after the projection or in a parameter.
        """
        hidden = self._masked(hidden, lengths)
        checked = self._validates(hidden)
        given = self.hidden_dim is None
        if checked:
            require_finite("hidden", hidden, _ENCODER, allow_forbidden=given)
        terms: dict[str, Any] = {"scores": at_least_float32(self.projection(hidden))}
        if self.start_projection is not None and self.end_projection is not None:
            terms["start_scores"] = at_least_float32(self.start_projection(hidden))
            terms["end_scores"] = at_least_float32(self.end_projection(hidden))
        if checked and not given:
            for name, tensor in terms.items():
                require_finite(f"{name} (after the projection)", tensor, _PROJECTION)
        if checked:
            terms = {name: watch_gradient(name, x, GRADIENT_REMEDY) for name, x in terms.items()}
        terms.update(self._shared_terms(checked))
        return {**terms, "lengths": lengths, "validate_args": self.validate_args}

    def _checked(self, hidden: Tensor, lengths: Tensor | None) -> dict[str, Any]:
        """:meth:`potentials`, for functions that need not look at the values a second time."""
        return {**self.potentials(hidden, lengths), "validate_args": False}

    def _constrained(
        self, hidden: Tensor, lengths: Tensor | None, boundaries: Tensor | None
    ) -> Constrained:
        """:meth:`_checked` under known boundaries; its ``fold`` takes results back to C labels."""
        terms = self._checked(hidden, lengths)
        if boundaries is None:
            return Constrained(terms, self.num_classes)
        checked = self._validates(hidden)
        inside = inside_lengths(lengths, hidden.shape, hidden.device, checked=False)
        return restrict(terms, {"boundaries": checked_boundaries(boundaries, inside, checked)})

    def _shared_terms(self, checked: bool) -> dict[str, Tensor]:
        """The terms that are parameters, the same for every sequence, with the constraints in."""
        terms = {
            "transition": self.transition,
            "duration_bias": self.durations(),
            "start": self.start,
            "end": self.end,
        }
        if self.tail_logit is not None:
            terms["tail"] = nn.functional.logsigmoid(self.tail_logit)
        if checked:
            for name, x in terms.items():
                require_finite(name, x, _PARAMETER, allow_forbidden=True, axis="rows")
                terms[name] = watch_gradient(name, x, GRADIENT_REMEDY, axis="rows")
        masks = {
            "transition": self.allowed_transitions,
            "duration_bias": self.allowed_durations,
            "start": self.allowed_first,
            "end": self.allowed_last,
        }
        if self.tail_logit is not None:
            masks["tail"] = self.allowed_durations[-1]
        for name, allowed in masks.items():
            terms[name] = terms[name].masked_fill(~allowed, -torch.inf)
        return terms

    def forward(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        backend: str = "auto",
        use_triton: bool = True,
        semiring: str | Semiring = "log",
    ) -> dict[str, Tensor]:
        """The log partition and the prefix sums of the label scores.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            backend: "auto": streaming for log and max, the edge tensor for other semirings;
                "streaming" or "exact" asks for one of them; or a backend's name.
            use_triton: False leaves the Triton kernels out of the automatic choice.
            semiring: "log", "max", or another of ``torch_semimarkov.semirings``, or its name.

        Returns:
            {"partition": (B,), "cum_scores": (B, T+1, C)}. Given scores that forbid by -inf leave
            prefix sums of -inf, which cannot be differenced again.

        Raises:
            ShapeError, NumericsError: as :meth:`potentials`.
            UnsupportedError: the backend asked for cannot run the call, or the edge tensor would be
                larger than ``edge_memory_threshold``.
        """
        terms = self._checked(hidden, lengths)
        with triton_or_not(use_triton):
            partition = total_of(terms, semiring, backend, self.edge_memory_threshold)
        if self._validates(hidden) and getattr(semiring, "name", semiring) in STREAMING:
            require_partition(partition)
        scores = terms["scores"]
        sums = scores.cumsum(1, dtype=widest(scores))
        return {
            "partition": partition,
            "cum_scores": nn.functional.pad(sums, (0, 0, 1, 0)).to(scores.dtype),
        }

    def explain(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        backend: str = "auto",
        semiring: str | Semiring = "log",
    ) -> Route:
        """Which path and backend :meth:`forward` would take, and the bytes of the edge tensor.

        Args:
            hidden, lengths, backend, semiring: as in :meth:`forward`.

        >>> head = SemiMarkovCRFHead(num_classes=2, max_duration=4)
        >>> found = head.explain(torch.zeros(1, 6, 2), semiring="entropy")
        >>> found.path, found.edge_bytes
        ('exact', 384)
        """
        terms = self._checked(hidden, lengths)
        return route_of(terms, semiring, backend, self.edge_memory_threshold)

    def decode(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        boundaries: Tensor | None = None,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> ViterbiResult:
        """The best segmentation of every sequence, and its score; no gradient.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            boundaries: (B, T) int. 1: a segment must start here; 0: none may; -1: either
                (default). As in :func:`torch_semimarkov.constrain`.
            backend, use_triton: as in :meth:`forward`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with torch.no_grad(), triton_or_not(use_triton):
            asked = self._constrained(hidden, lengths, boundaries)
            on = streaming_backend(backend, "decode")
            return asked.fold(functional.viterbi(**asked.terms, backend=on))

    def decode_with_traceback(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        boundaries: Tensor | None = None,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> ViterbiResult:
        """The same as :meth:`decode`, under its established name."""
        more = {"backend": backend, "use_triton": use_triton}
        return self.decode(hidden, lengths, boundaries=boundaries, **more)

    def parameter_penalty(self, p: float = 2.0) -> Tensor:
        """Sum of ``|weight| ** p`` over transitions, durations, tail, start and end, for the loss.

        >>> head = SemiMarkovCRFHead(1, 1, duration_distribution="uniform")
        >>> head.transition.data.fill_(3.0)
        tensor([[3.]])
        >>> head.parameter_penalty().item()
        9.0
        """
        if not p > 0:
            raise ConfigError(f"p must be > 0, got {p}")
        weights = [self.transition, self.start, self.end, *self.durations.parameters()]
        weights += [] if self.tail_logit is None else [self.tail_logit]
        return torch.stack([weight.abs().pow(p).sum() for weight in weights]).sum()

    def _validates(self, hidden: Tensor) -> bool:
        return wants_validation(self.validate_args, hidden.device)

    def _masked(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """Hidden states with zeros past the lengths, so that NaN there reaches no gradient."""
        D = self.hidden_dim or self.num_classes
        require_tensors(hidden=hidden, lengths=hidden if lengths is None else lengths)
        if hidden.dim() != 3 or hidden.shape[2] != D or 0 in hidden.shape:
            name = "num_classes" if self.hidden_dim is None else "hidden_dim"
            raise ShapeError(
                f"hidden must be (B, T, {name}) = (B, T, {D}) with B, T >= 1, "
                f"got {tuple(hidden.shape)}"
            )
        if not hidden.is_floating_point():
            raise ShapeError(f"hidden must be float, got {str(hidden.dtype)[6:]}")
        self._check_dtype(hidden)
        if lengths is None:
            return hidden
        checked = self._validates(hidden)
        inside = inside_lengths(lengths, hidden.shape, hidden.device, checked)
        return torch.where(inside[..., None], hidden, 0.0)

    def _check_dtype(self, hidden: Tensor) -> None:
        """Refuse a type that the projection cannot take, unless autocast converts it."""
        weights = [parameter.dtype for parameter in self.projection.parameters()][:1]
        if weights in ([], [hidden.dtype]) or torch.is_autocast_enabled(hidden.device.type):
            return
        raise ShapeError(
            f"hidden must be {str(weights[0])[6:]} like the head's weights, got "
            f"{str(hidden.dtype)[6:]}; convert one of them, or use torch.autocast"
        )


def _check_settings(boundary_scores: bool, hidden_dim: int | None, tail: str | None) -> None:
    """Refuse choices that a head cannot have.

    Raises:
        ConfigError: naming the setting.
    """
    if boundary_scores and hidden_dim is None:
        raise ConfigError("boundary_scores=True projects hidden states, so it needs hidden_dim")
    if tail not in (None, "geometric"):
        raise ConfigError(f'tail must be "geometric" or None, got {tail!r}')
