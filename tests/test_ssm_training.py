"""The AR-SSM layer in training: gates, ranks, state, checkpointing, memory, autocast, compile."""

import copy
import math

import pytest
import torch
from ssm_cases import EACH_NORMALISER, LENGTHS, B, D, L, R, gradients, inputs, layer_of
from tolerances import FLOAT64, assert_close
from torch.utils.flop_counter import FlopCounterMode

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.ssm import GATE_MODES, AdaptiveRankSemiseparableLayer
from torch_semimarkov.ssm.gates import GateMode, open_gates

each_mode = pytest.mark.parametrize("mode", GATE_MODES)
each_normaliser = pytest.mark.parametrize("normaliser", EACH_NORMALISER)


# Gates


def test_soft_gates_are_probabilities_and_hard_ones_their_rounding():
    logits = torch.tensor([-3.0, -0.1, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    soft, hard = (open_gates(logits, GateMode(name), True) for name in ("soft", "ste"))
    assert torch.equal(soft, torch.sigmoid(logits))
    assert hard.tolist() == [0.0, 0.0, 1.0, 1.0]
    (left,), (right,) = (torch.autograd.grad(gates.sum(), logits) for gates in (soft, hard))
    assert torch.equal(left, right)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_gumbel_gates_are_samples_of_the_binary_concrete_distribution(temperature):
    """Its distribution function is sigmoid(temperature logit(x) - log odds), at any x."""
    count, log_odds = 200_000, 0.7
    sample = open_gates(torch.full((count,), log_odds), GateMode("gumbel", temperature), True)
    for x in (0.1, 0.3, 0.5, 0.8):
        expected = 1 / (1 + math.exp(log_odds - temperature * math.log(x / (1 - x))))
        found = (sample <= x).double().mean().item()
        assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / count)


def test_gumbel_gates_repeat_with_the_seed_and_are_no_samples_in_evaluation():
    layer, x = layer_of(), inputs()
    layer.set_gate_mode("gumbel", 0.5)
    torch.manual_seed(3)
    first, second = (layer(x)[1]["gates"] for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(layer(x)[1]["gates"], first)
    assert not torch.equal(first, second)
    assert first[0].ne(first[1]).all()
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.set_gate_mode("soft")
    odds = torch.logit(layer(x)[1]["gates"])
    layer.set_gate_mode("gumbel", 0.5)
    assert_close("score", FLOAT64, layer(x)[1]["gates"], torch.sigmoid(odds / 0.5))


@each_mode
def test_the_mode_of_the_gates_rules_every_pass(mode):
    layer = layer_of(causal=True)
    layer.set_gate_mode(mode)
    layer.eval()
    x = inputs()
    odds = torch.logit(layer_like(layer)(x)[1]["gates"])
    expected = open_gates(odds, GateMode(mode), False)
    _, found = layer(x)
    assert_close("score", FLOAT64, found["gates"], expected)
    assert_close("score", FLOAT64, layer.stream(x)[0], layer(x)[0])
    u = x @ layer.project_u.weight.T * expected
    assert_close("score", FLOAT64, found["u_gated"], u)


def layer_like(layer):
    """A copy with soft gates."""
    other = copy.deepcopy(layer)
    other.set_gate_mode("soft")
    return other


def test_an_open_gate_costs_what_the_weight_says():
    layer = layer_of(l1_regularization=0.01)
    _, found = layer(inputs())
    assert_close("score", FLOAT64, found["gate_l1_loss"], 0.01 * found["gates"].mean())
    assert_close("score", FLOAT64, found["effective_rank"], found["gates"].sum(-1).mean())
    found["gate_l1_loss"].backward()
    assert bool(layer.gate_logits.bias.grad.gt(0).all())


def test_bad_gates_are_named():
    with pytest.raises(ConfigError, match=r"(?s)gate mode must be one of soft, ste.*temperature"):
        layer_of().set_gate_mode("hard", 0.0)


# Ranks


def test_the_schedule_is_its_formula():
    layer = AdaptiveRankSemiseparableLayer(8, max_rank=32, min_rank=4)
    assert layer.current_rank == 32
    for step in range(0, 40):
        rank = layer.update_rank_schedule(step, 30)
        assert rank == layer.current_rank == int(4 + min(1.0, step / 30) * 28)
    assert layer.update_rank_schedule(0, 0) == 32
    with pytest.raises(
        ConfigError, match=r"(?s)step must be .* got -1.*warmup_steps must be .*1.5"
    ):
        layer.update_rank_schedule(-1, 1.5)


@each_normaliser
def test_a_rank_that_is_not_reached_yet_costs_no_operation_and_has_no_effect(normaliser):
    layer = layer_of(max_rank=24, min_rank=3, normaliser=normaliser, own_reverse=True)
    small = layer_of(max_rank=3, min_rank=3, normaliser=normaliser, own_reverse=True)
    assert flops(layer) > flops(small)
    layer.update_rank_schedule(0, 10)
    assert flops(layer) == flops(small)
    y, found = layer.forward_bidirectional(inputs_of_seed())
    assert found["gates"].shape == found["k_cumsum_reverse"].shape == (B, L, 3)
    with torch.no_grad():
        for name in ("gate_logits", "project_u", "project_v"):
            getattr(layer, name).weight[3:] = torch.nan
        for name in ("project_out", "project_reverse"):
            getattr(layer, name).weight[:, 3:] = torch.nan
    assert torch.equal(layer.forward_bidirectional(inputs_of_seed())[0], y)


def inputs_of_seed():
    torch.manual_seed(8)
    return inputs()


def flops(layer):
    """Of a forward and a backward."""
    with FlopCounterMode(display=False) as counter:
        layer.forward_bidirectional(inputs())[0].sum().backward()
    return counter.get_total_flops()


# State


def test_gate_mode_and_schedule_are_in_the_state():
    layer = layer_of(max_rank=16, min_rank=2)
    layer.set_gate_mode("gumbel", 0.3)
    layer.update_rank_schedule(5, 10)
    other = layer_of(max_rank=16, min_rank=2)
    other.load_state_dict(layer.state_dict())
    assert (other.gate_mode, other.gate_temperature, other.current_rank) == ("gumbel", 0.3, 9)
    x = inputs()
    torch.manual_seed(2)
    y = layer(x)[0]
    torch.manual_seed(2)
    assert torch.equal(other(x)[0], y)
    assert all(isinstance(value, torch.Tensor) for value in layer.state_dict().values())


@pytest.mark.parametrize("values", [[9.0, 1.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0]], ids=str)
def test_a_state_that_is_none_is_refused(values):
    state = {**layer_of().state_dict(), "_extra_state": torch.tensor(values)}
    with pytest.raises(RuntimeError, match="no gate mode and rank schedule in the state"):
        layer_of().load_state_dict(state)


def test_the_state_survives_a_file(tmp_path):
    layer = layer_of()
    layer.set_gate_mode("ste")
    layer.update_rank_schedule(1, 3)
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other = layer_of()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (other.gate_mode, other.current_rank) == ("ste", layer.current_rank)
    assert layer.current_rank < R


# Checkpointing and memory


@each_mode
@each_normaliser
def test_checkpointing_changes_no_bit_of_result_or_gradient(mode, normaliser):
    layer = layer_of(normaliser=normaliser, own_reverse=True)
    layer.set_gate_mode(mode, 0.7)
    layer.update_rank_schedule(1, 3)
    assert layer.current_rank < R
    results = []
    for layer.gradient_checkpointing in (False, True):
        torch.manual_seed(4)
        x = inputs(requires_grad=True)
        y, found = layer.forward_bidirectional(x, LENGTHS)
        results.append([y, *gradients(y + found["gate_l1_loss"], layer, x)])
    assert results[0][0].grad_fn is not None
    for plain, again in zip(*results, strict=True):
        assert torch.equal(plain, again)


def kept_bytes(layer, both):
    """What autograd keeps for the backward besides the parameters, each storage once."""
    storages = {}
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    x = torch.randn(2, 500, layer.d_model, dtype=layer.conv.weight.dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y, _ = layer.forward_bidirectional(x) if both else layer(x)
    del y
    return sum(storage.nbytes() for storage in storages.values())


@each_normaliser
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_memory_estimate_is_what_autograd_keeps(normaliser, both, dtype):
    layer = AdaptiveRankSemiseparableLayer(
        48, max_rank=24, normaliser=normaliser, own_reverse=both, dtype=dtype
    )
    for step in (0, 10):
        layer.update_rank_schedule(step, 10)
        found = layer.memory_estimate(2, 500, bidirectional=both)
        assert found.activations == pytest.approx(kept_bytes(layer, both), rel=0.05)
    assert found.parameters == sum(p.numel() * p.element_size() for p in layer.parameters())
    assert found.total == found.activations + 2 * found.parameters
    assert found.recomputed == 0


def test_checkpointing_keeps_the_input_alone():
    layer = AdaptiveRankSemiseparableLayer(48, gradient_checkpointing=True)
    plain = AdaptiveRankSemiseparableLayer(48)
    estimate = layer.memory_estimate(2, 500)
    assert kept_bytes(layer, False) == estimate.activations == 2 * 500 * 48 * 4
    assert estimate.activations + estimate.recomputed == plain.memory_estimate(2, 500).activations
    with pytest.raises(ConfigError, match=r"(?s)batch_size must be .* got 0.*length must be"):
        layer.memory_estimate(0, 1.5)


# Types, autocast and torch.compile


@each_normaliser
def test_half_types_are_summed_in_float32(normaliser):
    layer = AdaptiveRankSemiseparableLayer(8, normaliser=normaliser, dtype=torch.bfloat16)
    y, found = layer(torch.randn(1, 4000, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and found["k_cumsum"].dtype == torch.float32
    if normaliser is None:
        truth = found["u_gated"].double().cumsum(1)
        torch.testing.assert_close(found["k_cumsum"].double(), truth, rtol=1e-5, atol=1e-4)


@each_normaliser
@pytest.mark.parametrize("checkpointed", [False, True])
def test_autocast_gives_nearly_the_same(normaliser, checkpointed):
    layer = layer_of(normaliser=normaliser, gradient_checkpointing=checkpointed).float()
    x = inputs().float().requires_grad_()
    y, _ = layer.forward_bidirectional(x, LENGTHS)
    (expected,) = torch.autograd.grad(y.sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, found = layer.forward_bidirectional(x, LENGTHS)
    assert found["u_gated"].dtype == torch.bfloat16 and found["k_cumsum"].dtype == torch.float32
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.05)
    (found,) = torch.autograd.grad(half.float().sum(), x)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("mode", ["soft", "ste"])
@each_normaliser
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_compiled_layer_gives_the_same_in_one_graph(mode, normaliser, checkpointed):
    torch.compiler.reset()
    layer = layer_of(normaliser=normaliser, gradient_checkpointing=checkpointed)
    layer.set_gate_mode(mode)
    x = inputs(requires_grad=True)
    for name in ("forward", "forward_bidirectional"):
        run = getattr(layer, name)
        y, found = run(x, LENGTHS)
        expected = gradients(y + found["gate_l1_loss"], layer, x)
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        other, others = compiled(x, LENGTHS)
        assert_close("score", FLOAT64, other, y)
        grads = gradients(other + others["gate_l1_loss"], layer, x)
        for mine, theirs in zip(grads, expected, strict=True):
            assert_close("gradient", FLOAT64, mine, theirs)
        assert bool(others["used_fused_scan"]) is found["used_fused_scan"]


def test_compiled_gumbel_gates_are_drawn_anew_each_time():
    torch.compiler.reset()
    layer = layer_of(gradient_checkpointing=True)
    layer.set_gate_mode("gumbel")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    (y, _), (other, _) = compiled(x := inputs()), compiled(x)
    y.sum().backward()
    assert not torch.equal(y, other)
    assert bool(layer.project_u.weight.grad.isfinite().all())


def test_one_graph_serves_all_ranks_of_a_schedule():
    torch.compiler.reset()
    layer, x, graphs = layer_of(max_rank=20), inputs(), []

    def backend(graph, examples):
        graphs.append(graph)
        return graph.forward

    with torch._dynamo.config.patch(allow_unspec_int_on_nn_module=True):
        compiled = torch.compile(layer, fullgraph=True, backend=backend)
        for step in range(18):
            layer.update_rank_schedule(step, 18)
            assert_close("score", FLOAT64, compiled(x)[0], layer(x)[0])
    assert len(graphs) <= 3


def test_a_compiled_stream_carries_its_state():
    torch.compiler.reset()
    layer, x = layer_of(causal=True, normaliser="mean").requires_grad_(False), inputs()
    compiled = torch.compile(layer.stream, fullgraph=True, backend="aot_eager")
    first, state = compiled(x[:, :4])
    second, state = compiled(x[:, 4:], state)
    assert_close("score", FLOAT64, torch.cat([first, second], 1), layer(x)[0])


def test_a_layer_learns_to_count():
    """The sum so far of a sign, which no convolution of width 3 can see."""
    torch.manual_seed(0)
    layer = AdaptiveRankSemiseparableLayer(D, max_rank=4, causal=True)
    signs = torch.randn(16, 40, 1).sign()
    x = torch.cat([signs, torch.ones(16, 40, 1), torch.zeros(16, 40, D - 2)], 2)
    target = signs.cumsum(1)[..., 0] / 6
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(150):
        loss = (layer(x)[0][..., 2] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * target.square().mean().item()
