"""The adaptive-rank semiseparable layer: a short convolution and a gated running sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torch_semimarkov.errors import ConfigError, raise_all
from torch_semimarkov.ssm.gates import GATE_MODES, GateMode, RankSchedule
from torch_semimarkov.ssm.inputs import check_features, chunk_counts, inside_of, setting_problems
from torch_semimarkov.ssm.memory import MemoryEstimate, estimate
from torch_semimarkov.ssm.passes import GatedSums, Parts, effective_rank_of, masked
from torch_semimarkov.ssm.streaming import StreamState, first_state, next_state
from torch_semimarkov.ssm.sums import runs_fused


class AdaptiveRankSemiseparableLayer(GatedSums):
    """Local context by a depthwise convolution, the rest by a gated low-rank running sum.

    With r the current rank and * elementwise, of (B, L, D) inputs x::

        t = depthwise convolution of x              g = gates(W2 relu(W1 x + b1) + b2)    (r)
        u = (Wu x) * g                              v = (Wv x) * g                        (r)
        s = running sum of u over the positions     y = t + Wo (s * v) + bo               (D)

    Time and memory are linear in L. Only the first r rows and columns of the weights are read, so a
    rank that the schedule has not reached yet costs nothing.

    Args:
        d_model: features D >= 1.
        max_rank: largest rank, >= 1.
        min_rank: rank at the start of a schedule, 1..max_rank.
        gate_hidden_dim: hidden units of the gates; default max(d_model // 4, min_rank).
        l1_regularization: weight >= 0 of ``gate_l1_loss``.
        use_fused_scan: let :func:`torch_semimarkov.scan.fused_associative_scan` choose a compiled
            kernel; otherwise plain torch.
        causal: the convolution sees no later position, so y[t] depends on x[:t+1] only. By default
            it is centred, and y[t] depends on x[t + kernel_size // 2] too.
        kernel_size: odd width of the convolution.
        normaliser: None, the plain sum, which grows with L; "mean", divided by the number of
            positions so far; "decay", s[t] = a s[t-1] + (1 - a) u[t] with a learned a of each
            rank, at first exp(-1/4) ... exp(-1/1024). Both keep |s| <= max |u| at any L, need no
            later position and work in a stream.
        own_reverse: a second Wo for the reverse scan of ``forward_bidirectional``, so that the
            layer can tell left from right.
        gradient_checkpointing: keep the input alone for the backward, which computes again.
        device, dtype: of the weights.

    Modes of the gates and the rank schedule are part of the state dict.

    Raises:
        ConfigError: a value out of its range; every one is named.

    >>> layer = AdaptiveRankSemiseparableLayer(8, max_rank=4, causal=True)
    >>> y, diagnostics = layer(torch.randn(2, 10, 8), torch.tensor([10, 7]))
    >>> y.shape, diagnostics["gates"].shape
    (torch.Size([2, 10, 8]), torch.Size([2, 10, 4]))
    """

    def __init__(
        self,
        d_model: int,
        max_rank: int = 32,
        min_rank: int = 4,
        gate_hidden_dim: int | None = None,
        l1_regularization: float = 1e-3,
        use_fused_scan: bool = True,
        causal: bool = False,
        *,
        kernel_size: int = 3,
        normaliser: str | None = None,
        own_reverse: bool = False,
        gradient_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if gate_hidden_dim is None and type(d_model) is type(min_rank) is int:
            gate_hidden_dim = max(d_model // 4, min_rank)
        self.d_model, self.max_rank, self.min_rank = d_model, max_rank, min_rank
        self.gate_hidden_dim, self.l1_regularization = gate_hidden_dim, l1_regularization
        self.use_fused_scan, self.causal, self.kernel_size = use_fused_scan, causal, kernel_size
        self.normaliser, self.own_reverse = normaliser, own_reverse
        self.gradient_checkpointing = gradient_checkpointing
        raise_all(ConfigError, "no such layer", setting_problems(self))
        made = {"device": device, "dtype": dtype}
        self.conv = nn.Conv1d(d_model, d_model, kernel_size, groups=d_model, **made)
        self.gate_hidden = nn.Linear(d_model, gate_hidden_dim, **made)
        self.gate_logits = nn.Linear(gate_hidden_dim, max_rank, **made)
        self.project_u = nn.Linear(d_model, max_rank, bias=False, **made)
        self.project_v = nn.Linear(d_model, max_rank, bias=False, **made)
        self.project_out = nn.Linear(max_rank, d_model, **made)
        self.project_reverse = self.log_horizon = None
        if own_reverse:
            self.project_reverse = nn.Linear(max_rank, d_model, bias=False, **made)
        if normaliser == "decay":
            horizons = torch.logspace(2, 10, max_rank, 2.0, dtype=torch.float64).log()
            weight = torch.empty(max_rank, **made)
            self.log_horizon = nn.Parameter(weight.copy_(horizons))
        self._schedule = RankSchedule(min_rank, max_rank)
        self._gate_mode = GateMode()

    @property
    def current_rank(self) -> int:
        """Ranks r that the layer computes now."""
        return self._schedule.rank

    @property
    def gate_mode(self) -> str:
        """Mode of the gates."""
        return self._gate_mode.name

    @property
    def gate_temperature(self) -> float:
        """Temperature of the gates in mode "gumbel"."""
        return self._gate_mode.temperature

    def set_gate_mode(self, mode: str, temperature: float = 1.0) -> None:
        """Choose how the gates open.

        Args:
            mode: "soft", the probability p; "ste", 1 where p > 0.5 and else 0, with the gradient of
                p; "gumbel", in training a sample of the binary concrete distribution (seeded by
                ``torch.manual_seed``), in evaluation its median.
            temperature: > 0, of "gumbel"; near 0 its samples are near 0 or 1.

        Raises:
            ConfigError: an unknown mode or a temperature out of range.
        """
        self._gate_mode = GateMode(mode, temperature)

    def update_rank_schedule(self, step: int, warmup_steps: int) -> int:
        """Set the rank to int(min_rank + min(1, step / warmup_steps) * (max_rank - min_rank)).

        ``torch.compile`` compiles each rank anew and stops at its limit; one graph serves all ranks
        with ``torch._dynamo.config.allow_unspec_int_on_nn_module = True``.

        Args:
            step: steps so far, >= 0.
            warmup_steps: steps until ``max_rank``, >= 0.

        Returns:
            The rank.

        Raises:
            ConfigError: a value below 0, or no integer.
        """
        return self._schedule.update(step, warmup_steps)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, dict[str, Any]]:
        """The layer, with a scan from left to right.

        Args:
            x: (B, L, D) float.
            lengths: (B,) int, 1 <= lengths <= L. Positions past a length have no effect; default L.

        Returns:
            y: (B, L, D), 0 past the lengths; and diagnostics, r being the current rank and all 0
            past the lengths: ``t_component`` (B, L, D), ``gates``, ``u_gated``, ``v_gated`` and
            ``k_cumsum`` (B, L, r; the last is s, normalised if the layer does), ``uv_component``
            (B, L, D; y - t_component), ``effective_rank`` (sum of a position's gates, its mean over
            the positions), ``gate_l1_loss`` (``l1_regularization`` times the mean gate, to add to
            the loss), ``used_fused_scan`` (a compiled scan ran).

        Raises:
            ShapeError: x is not (B, L, D), or lengths do not fit it.
        """
        return self._run(x, lengths, both=False)

    def forward_bidirectional(
        self, x: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """The layer, with a scan from each side: y = t + Wo (s * v) + Wo (s_reverse * v) + bo.

        Args:
            x, lengths: as in :meth:`forward`. The reverse scan starts at each sequence's last
                position.

        Returns:
            As :meth:`forward`; the diagnostics also hold ``k_cumsum_reverse`` (B, L, r),
            ``uv_component_reverse`` (B, L, D; without bo, which is in ``uv_component``) and
            ``bidirectional`` (True).

        Raises:
            ConfigError: the layer is causal.
            ShapeError: as :meth:`forward`.
        """
        self._refuse_both(True)
        return self._run(x, lengths, both=True)

    def forward_with_penalty(
        self, x: Tensor, lengths: Tensor | None = None, *, bidirectional: bool = False
    ) -> tuple[Tensor, Tensor]:
        """y and ``gate_l1_loss`` alone, as a model needs them in training; the rest is let go.

        Args:
            x, lengths: as in :meth:`forward`.
            bidirectional: of :meth:`forward_bidirectional`.

        Returns:
            y (B, L, D), 0 past the lengths, and the penalty, ().

        Raises:
            ConfigError, ShapeError: as the methods that it stands for.
        """
        self._refuse_both(bidirectional)
        parts, inside = self._parts(x, lengths, bidirectional)
        return masked(parts.y, inside), self._penalty(parts.gates, inside)

    def stream(
        self, x: Tensor, state: StreamState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, StreamState]:
        """The next chunk of sequences that come in pieces; the pieces give what the whole gives.

        Args:
            x: (B, L, D) float, L >= 0. The chunk.
            state: what the last call returned; None before the first chunk.
            lengths: (B,) int, 0..L. Positions of the chunk that belong to each sequence; default L.

        Returns:
            y: (B, L, D), 0 past the lengths; and the state to pass with the next chunk.

        Raises:
            ConfigError: the layer is not causal.
            ShapeError: x, lengths or state do not fit together.

        >>> layer = AdaptiveRankSemiseparableLayer(8, causal=True)
        >>> x, state, pieces = torch.randn(1, 9, 8), None, []
        >>> for piece in x.split(4, dim=1):
        ...     y, state = layer.stream(piece, state)
        ...     pieces.append(y)
        >>> torch.allclose(torch.cat(pieces, dim=1), layer(x)[0], atol=1e-5)
        True
        """
        if not self.causal:
            raise ConfigError("a stream needs a causal layer; build it with causal=True")
        check_features(x, self.d_model)
        counts, inside = chunk_counts(x, lengths)
        width = self.kernel_size - 1
        if state is None:
            state = first_state(x, self.current_rank, width)
        state.check(x, self.current_rank, width)
        x = torch.where(inside, x, 0.0)
        local = self._convolve(torch.cat([state.tail, x], 1))
        _, u, v = self._project(x)
        totals = self._sum(u, False, state.total)
        s = self._normalised(totals, state.count + 1, reverse=False)
        y = local + self._mix(s, v, self.project_out)
        return torch.where(inside, y, 0.0), next_state(state, x, totals, counts)

    def memory_estimate(
        self, batch_size: int, length: int, *, bidirectional: bool = False
    ) -> MemoryEstimate:
        """Bytes that a training step holds, at the current rank and in the type of the weights.

        Args:
            batch_size: B >= 1.
            length: L >= 1.
            bidirectional: of :meth:`forward_bidirectional`.

        Raises:
            ConfigError: a size below 1.
        """
        return estimate(self, batch_size, length, bidirectional)

    def get_extra_state(self) -> Tensor:
        """Gate mode, temperature and rank schedule as numbers, which safetensors can keep."""
        schedule, mode = self._schedule, self._gate_mode
        return torch.tensor(
            [GATE_MODES.index(mode.name), mode.temperature, schedule.step, schedule.warmup_steps],
            dtype=torch.float64,
        )

    def set_extra_state(self, state: Tensor) -> None:
        """Take what :meth:`get_extra_state` gave.

        Raises:
            RuntimeError: it is no such state, as ``load_state_dict`` has it.
        """
        try:
            mode, temperature, step, warmup = state.tolist()
            self._gate_mode = GateMode(GATE_MODES[int(mode)], temperature)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise RuntimeError(f"no gate mode and rank schedule in the state: {error}") from error
        self._schedule = RankSchedule(self.min_rank, self.max_rank, int(step), int(warmup))

    def extra_repr(self) -> str:
        """The settings that the submodules do not show."""
        return (
            f"rank={self.current_rank} of {self.min_rank}..{self.max_rank}, "
            f"gate_mode={self.gate_mode!r}, causal={self.causal}, normaliser={self.normaliser!r}"
        )

    def _refuse_both(self, bidirectional: bool) -> None:
        if bidirectional and self.causal:
            raise ConfigError(
                "forward_bidirectional sees later positions and the layer is causal; "
                "build it with causal=False"
            )

    def _run(self, x: Tensor, lengths: Tensor | None, both: bool) -> tuple[Tensor, dict[str, Any]]:
        parts, inside = self._parts(x, lengths, both)
        parts = parts._replace(
            **{name: masked(part, inside) for name, part in parts._asdict().items()}
        )
        return parts.y, self._diagnostics(parts, inside)

    def _parts(self, x: Tensor, lengths: Tensor | None, both: bool) -> tuple[Parts, Tensor | None]:
        """What a pass computes, anything past the lengths; and the mask of what is inside."""
        check_features(x, self.d_model)
        inside = inside_of(x, lengths)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._compute, x, lengths, inside, both, use_reentrant=False), inside
        return self._compute(x, lengths, inside, both), inside

    def _diagnostics(self, parts: Parts, inside: Tensor | None) -> dict[str, Any]:
        effective_rank = effective_rank_of(parts.gates, inside)
        found = {
            "t_component": parts.t, "gates": parts.gates, "effective_rank": effective_rank,
            "u_gated": parts.u, "v_gated": parts.v, "k_cumsum": parts.s,
            "uv_component": parts.uv, "gate_l1_loss": self._penalty(parts.gates, inside),
            "used_fused_scan": self._ran_fused(parts),
        }  # fmt: skip
        if parts.s_reverse is not None:
            found["k_cumsum_reverse"] = parts.s_reverse
            found["uv_component_reverse"] = parts.uv_reverse
            found["bidirectional"] = True
        return found

    def _penalty(self, gates: Tensor, inside: Tensor | None) -> Tensor:
        return self.l1_regularization * effective_rank_of(gates, inside) / gates.shape[2]

    def _ran_fused(self, parts: Parts) -> bool | Tensor:
        op = "add" if self.log_horizon is None else "linear"
        way = False if parts.s_reverse is None else "both"
        return self.use_fused_scan and runs_fused(parts.s, op, way)
