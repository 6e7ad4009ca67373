"""The AR-SSM layer: its formulas, causality to the bit, padding, streaming and diagnostics."""

import pytest
import torch
from ssm_cases import (
    EACH_NORMALISER,
    INSIDE,
    LENGTHS,
    B,
    D,
    L,
    R,
    by_hand,
    gradients,
    inputs,
    layer_of,
)
from tolerances import FLOAT64, assert_close

from torch_semimarkov.backends.cpu import scans as cpu_scans
from torch_semimarkov.backends.reference import scans as reference_scans
from torch_semimarkov.dispatch import use_backend
from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.scan import explain
from torch_semimarkov.ssm import AdaptiveRankSemiseparableLayer

each_normaliser = pytest.mark.parametrize("normaliser", EACH_NORMALISER)
both_ways = pytest.mark.parametrize("both", [False, True], ids=["forward", "bidirectional"])


def call(layer, both):
    return layer.forward_bidirectional if both else layer.forward


# The formulas


@each_normaliser
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"kernel_size": 5}, {"kernel_size": 1}])
def test_it_computes_its_formulas(normaliser, options):
    layer, x = layer_of(normaliser=normaliser, **options), inputs()
    for rank_step in (0, 1, 2):
        layer.update_rank_schedule(rank_step, 2)
        y, _ = layer(x)
        for b in range(B):
            assert_close("score", FLOAT64, y[b], by_hand(layer, x[b]))


@each_normaliser
@pytest.mark.parametrize("own_reverse", [False, True])
def test_both_directions_add_up_on_one_local_term(normaliser, own_reverse):
    layer, x = layer_of(normaliser=normaliser, own_reverse=own_reverse), inputs()
    y, found = layer.forward_bidirectional(x)
    for b in range(B):
        assert_close("score", FLOAT64, y[b], by_hand(layer, x[b], both=True))
    whole = found["t_component"] + found["uv_component"] + found["uv_component_reverse"]
    assert_close("score", FLOAT64, y, whole)
    assert torch.equal(found["t_component"], layer(x)[1]["t_component"])
    assert found["bidirectional"] is True


def test_the_sums_are_cumsum_and_flipped_cumsum_of_u():
    _, found = layer_of().forward_bidirectional(inputs())
    u = found["u_gated"]
    assert_close("score", FLOAT64, found["k_cumsum"], u.cumsum(1))
    assert_close("score", FLOAT64, found["k_cumsum_reverse"], u.flip(1).cumsum(1).flip(1))


def test_the_plain_layer_is_the_fused_one():
    x = inputs()
    for normaliser in EACH_NORMALISER:
        layer = layer_of(normaliser=normaliser)
        fused, found = layer.forward_bidirectional(x)
        layer.use_fused_scan = False
        plain, other = layer.forward_bidirectional(x)
        assert_close("score", FLOAT64, fused, plain)
        assert other["used_fused_scan"] is False
        op, u = "linear" if normaliser == "decay" else "add", found["u_gated"]
        chosen = {explain(u, 1, reverse, op=op).chosen for reverse in (False, True)}
        assert found["used_fused_scan"] is ("reference" not in chosen)


@each_normaliser
@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_used_fused_scan_says_what_ran(monkeypatch, name, normaliser):
    layer, ran = layer_of(normaliser=normaliser), []
    for module in (reference_scans, cpu_scans):
        for kernel in ("associative_scan", "linear_scan"):
            monkeypatch.setattr(module, kernel, noting(ran, module, kernel))
    with use_backend(name):
        _, found = layer(inputs())
    assert ran == [name]
    assert found["used_fused_scan"] is (name == "cpu")


def noting(ran, module, kernel):
    """The kernel, which adds its backend's name to a list."""
    run = getattr(module, kernel)
    return lambda *arguments: ran.append(module.NAME) or run(*arguments)


@both_ways
@each_normaliser
def test_gradients_are_those_of_the_formulas(both, normaliser):
    layer = layer_of(normaliser=normaliser, own_reverse=both, max_rank=2, min_rank=1)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def function(x, *values):
        given = {f"layer.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Called(layer, both), given, (x, torch.tensor([4, 3])))

    x = inputs(requires_grad=True)[:2, :4]
    assert torch.autograd.gradcheck(function, (x, *weights))


class Called(torch.nn.Module):
    """Either pass of a layer as a module."""

    def __init__(self, layer, both):
        super().__init__()
        self.layer, self.both = layer, both

    def forward(self, x, lengths):
        return call(self.layer, self.both)(x, lengths)[0]


# Causality


@each_normaliser
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_causal_layer_gives_the_same_bits_whatever_comes_later(normaliser, fused, dtype):
    layer = AdaptiveRankSemiseparableLayer(
        8, causal=True, normaliser=normaliser, use_fused_scan=fused, kernel_size=5, dtype=dtype
    )
    length = 200
    x = torch.randn(2, length, 8, dtype=dtype)
    y, _ = layer(x)
    for t in (0, 1, 7, 63, 64, 150, length - 2):
        for later in (torch.randn(2, length - t - 1, 8, dtype=dtype), torch.nan, torch.inf):
            other = x.clone()
            other[:, t + 1 :] = later
            assert torch.equal(layer(other)[0][:, : t + 1], y[:, : t + 1])


def test_the_centred_layer_sees_half_a_kernel_ahead_and_no_further():
    layer, x = layer_of(), inputs(requires_grad=True)
    layer(x)[0][0, 4].sum().backward()
    assert x.grad[0].abs().sum(-1).nonzero()[:, 0].tolist() == list(range(6))


def test_a_causal_layer_refuses_to_look_both_ways():
    with pytest.raises(ConfigError, match=r"sees later positions .* build it with causal=False"):
        layer_of(causal=True).forward_bidirectional(inputs())


# Lengths


@both_ways
@each_normaliser
@pytest.mark.parametrize("value", [0.0, 1e6, float("nan"), float("inf")])
def test_padding_never_reaches_a_result_or_a_gradient(both, normaliser, value):
    layer = layer_of(normaliser=normaliser)
    clean = inputs(requires_grad=True)
    y, found = call(layer, both)(clean, LENGTHS)
    grads = gradients(y + found["gate_l1_loss"], layer, clean)
    spoilt = torch.where(INSIDE, clean.detach(), value).requires_grad_()
    other, others = call(layer, both)(spoilt, LENGTHS)
    assert torch.equal(y, other)
    for name, part in found.items():
        assert part == others[name] if isinstance(part, bool) else torch.equal(part, others[name])
    for mine, theirs in zip(
        gradients(other + others["gate_l1_loss"], layer, spoilt), grads, strict=True
    ):
        assert torch.equal(mine, theirs)
    assert not grads[-1].masked_select(~INSIDE).any()


@both_ways
@each_normaliser
def test_a_ragged_batch_equals_its_sequences_one_by_one(both, normaliser):
    layer, x = layer_of(normaliser=normaliser), inputs()
    y, found = call(layer, both)(x, LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        alone, parts = call(layer, both)(x[b : b + 1, :length])
        assert_close("score", FLOAT64, y[b : b + 1, :length], alone)
        for name, part in found.items():
            if isinstance(part, torch.Tensor) and part.dim() == 3:
                assert_close("score", FLOAT64, part[b : b + 1, :length], parts[name])
                assert not part[b, length:].any()
    assert not y.masked_select(~INSIDE).any()


@both_ways
def test_the_pass_without_diagnostics_gives_the_same(both):
    layer, x = layer_of(), inputs()
    for lengths in (None, LENGTHS):
        y, found = call(layer, both)(x, lengths)
        other, penalty = layer.forward_with_penalty(x, lengths, bidirectional=both)
        assert torch.equal(y, other) and torch.equal(found["gate_l1_loss"], penalty)
    with pytest.raises(ConfigError, match="the layer is causal"):
        layer_of(causal=True).forward_with_penalty(x, bidirectional=True)


def test_means_over_gates_leave_the_padding_out():
    layer, x = layer_of(l1_regularization=0.5), inputs()
    _, found = layer(x, LENGTHS)
    alone = torch.cat([layer(x[b : b + 1, :n])[1]["gates"][0] for b, n in enumerate(LENGTHS)])
    assert_close("score", FLOAT64, found["effective_rank"], alone.sum(1).mean())
    assert_close("score", FLOAT64, found["gate_l1_loss"], 0.5 * alone.mean())


# Streams


@each_normaliser
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("sizes", [[1] * L, [4, 4, 3], [0, 10, 0, 1], [L]], ids=str)
def test_a_stream_of_chunks_gives_what_the_whole_gives(normaliser, kernel_size, sizes):
    layer = layer_of(causal=True, normaliser=normaliser, kernel_size=kernel_size)
    x, state, pieces = inputs(), None, []
    for piece in x.split(sizes, dim=1):
        y, state = layer.stream(piece, state)
        pieces.append(y)
    assert_close("score", FLOAT64, torch.cat(pieces, 1), layer(x)[0])
    assert state.count.tolist() == [L] * B


@each_normaliser
def test_sequences_of_a_stream_may_pause_and_end(normaliser):
    layer = layer_of(causal=True, normaliser=normaliser)
    x = inputs()
    state, gone, pieces = None, torch.zeros(B, dtype=torch.int64), [[], [], []]
    for counts in ([3, 0, 1], [0, 5, 0], [4, 1, 0], [4, 0, 0]):
        piece = torch.full((B, 6, D), torch.nan, dtype=torch.float64)
        for b, count in enumerate(counts):
            piece[b, :count] = x[b, gone[b] : gone[b] + count]
        y, state = layer.stream(piece, state, torch.tensor(counts))
        gone += torch.tensor(counts)
        for b, count in enumerate(counts):
            pieces[b].append(y[b, :count])
            assert not y[b, count:].any()
    whole, _ = layer(x, LENGTHS)
    assert gone.tolist() == state.count.tolist() == LENGTHS.tolist()
    for b, length in enumerate(LENGTHS.tolist()):
        assert_close("score", FLOAT64, torch.cat(pieces[b]), whole[b, :length])


def test_the_state_of_a_stream_does_not_grow():
    layer, state = layer_of(causal=True), None
    for _ in range(5):
        _, state = layer.stream(inputs(), state)
    assert [tuple(part.shape) for part in state] == [(B, R), (B,), (B, 2, D)]


# Growth


@pytest.mark.parametrize("normaliser", ["mean", "decay"])
def test_normalised_sums_stay_below_the_largest_u(normaliser):
    layer = AdaptiveRankSemiseparableLayer(8, normaliser=normaliser)
    _, found = layer.forward_bidirectional(torch.rand(1, 20_000, 8))
    bound = found["u_gated"].abs().amax(1) * (1 + 1e-5)
    assert bool((found["k_cumsum"].abs().amax(1) <= bound).all())
    assert bool((found["k_cumsum_reverse"].abs().amax(1) <= bound).all())


def test_plain_sums_grow_with_the_length():
    layer = AdaptiveRankSemiseparableLayer(8)
    ones = torch.ones(1, 2000, 8)
    s = layer(ones)[1]["k_cumsum"].abs().amax(-1)[0]
    torch.testing.assert_close(s[1999], 20 * s[99], rtol=1e-4, atol=0.0)


# Bad input


def test_bad_settings_are_all_named():
    with pytest.raises(ConfigError, match=r"(?s)d_model must be .*max_rank must be .*causal must"):
        AdaptiveRankSemiseparableLayer(0, max_rank="8", causal=1)
    with pytest.raises(ConfigError, match="min_rank must be <= max_rank = 2, got 4"):
        AdaptiveRankSemiseparableLayer(8, max_rank=2)
    with pytest.raises(ConfigError, match="kernel_size must be odd, got 4"):
        layer_of(kernel_size=4)
    with pytest.raises(ConfigError, match=r"normaliser must be None or one of mean, decay"):
        layer_of(normaliser="rms")
    with pytest.raises(ConfigError, match="own_reverse is for layers that are not causal"):
        layer_of(causal=True, own_reverse=True)


def test_bad_inputs_are_named():
    layer = layer_of(causal=True)
    with pytest.raises(
        ShapeError, match=r"x must be \(B, L, d_model\) = \(B, L, 6\), got \(2, 6\)"
    ):
        layer(torch.zeros(2, 6))
    with pytest.raises(ShapeError, match="x must be floating point, got int64"):
        layer(torch.zeros(1, 2, D, dtype=torch.int64))
    for lengths, message in (
        ([12, 1, 1], "lengths must be in 1..T = 1..11"),
        ([0, 1, 1], "lengths must be in 1..T = 1..11"),
        ([1, 1], r"lengths must be \(B,\) = \(3,\)"),
        ([1.0, 1.0, 1.0], "lengths must be integers"),
    ):
        with pytest.raises(ShapeError, match=message):
            layer(inputs(), torch.tensor(lengths))


def test_bad_streams_are_named():
    layer = layer_of(causal=True)
    _, state = layer.stream(inputs())
    with pytest.raises(ConfigError, match="a stream needs a causal layer"):
        layer_of().stream(inputs())
    with pytest.raises(ShapeError, match=r"integers in 0..L = 0..11, got .*\[12, 0, 0\]"):
        layer.stream(inputs(), state, torch.tensor([12, 0, 0]))
    with pytest.raises(ShapeError, match=r"(?s)state.total must be \(1, 5\).*state.count must"):
        layer.stream(inputs()[:1], state)
    layer.update_rank_schedule(0, 10)
    with pytest.raises(ShapeError, match=r"state.total must be \(3, 2\), got \(3, 5\)"):
        layer.stream(inputs(), state)
