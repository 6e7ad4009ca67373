"""Encoders: shapes, blindness to the padding and to batch mates, and how far they see."""

import pytest
import torch

from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.nn import (
    ENCODERS,
    ARSSMEncoder,
    BiLSTMEncoder,
    ConvEncoder,
    UNetEncoder,
    create_encoder,
)

D, H = 3, 8
LENGTHS = torch.tensor([12, 7, 1])
INSIDE = (torch.arange(12) < LENGTHS[:, None])[..., None]
for_each_encoder = pytest.mark.parametrize("name", ENCODERS)


def encoder_of(name, **options):
    """Without dropout, and in float64 so that only the padding can make a difference."""
    return create_encoder(name, D, H, **options).double().eval()


def features_of(requires_grad=False):
    return torch.randn(3, 12, D, dtype=torch.float64, requires_grad=requires_grad)


# Shapes


@for_each_encoder
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("T", [1, 2, 12])
def test_every_position_gets_a_hidden_state(name, num_layers, T):
    encoder = create_encoder(name, D, H, num_layers=num_layers)
    assert encoder.output_dim == H
    features = torch.randn(2, T, D)
    assert encoder(features).shape == (2, T, H)
    assert encoder(features, torch.tensor([T, 1])).shape == (2, T, H)


@for_each_encoder
def test_the_result_has_the_padded_size_when_every_sequence_is_shorter(name):
    hidden = encoder_of(name)(features_of(), torch.tensor([5, 4, 3]))
    assert hidden.shape == (3, 12, H)
    assert not hidden[:, 5:].any()


@for_each_encoder
def test_absent_lengths_are_full_lengths(name):
    encoder, features = encoder_of(name), features_of()
    torch.testing.assert_close(encoder(features), encoder(features, torch.full((3,), 12)))


# Padding


@for_each_encoder
def test_hidden_states_are_zero_in_the_padding(name):
    hidden = encoder_of(name)(features_of(), LENGTHS)
    assert not hidden.masked_select(~INSIDE).any()
    assert bool(hidden.masked_select(INSIDE).all())


@for_each_encoder
@pytest.mark.parametrize("value", [0.0, 1e6, float("nan"), float("inf")])
def test_padding_never_reaches_a_hidden_state_or_a_gradient(name, value):
    encoder = encoder_of(name)
    clean = features_of(requires_grad=True)
    weights = torch.randn(3, 12, H, dtype=torch.float64)
    hidden = encoder(clean, LENGTHS)
    grads = torch.autograd.grad((hidden * weights).sum(), [clean, *encoder.parameters()])
    spoilt = torch.where(INSIDE, clean.detach(), value).requires_grad_()
    other = encoder(spoilt, LENGTHS)
    assert torch.equal(hidden, other)
    others = torch.autograd.grad((other * weights).sum(), [spoilt, *encoder.parameters()])
    for mine, theirs in zip(others, grads, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert not others[0].masked_select(~INSIDE).any()


@for_each_encoder
def test_more_padding_changes_nothing(name):
    encoder, features = encoder_of(name), features_of()
    wider = torch.nn.functional.pad(features, (0, 0, 0, 9), value=7.0)
    hidden = encoder(wider, LENGTHS)
    torch.testing.assert_close(hidden[:, :12], encoder(features, LENGTHS))


@for_each_encoder
def test_batch_mates_change_nothing(name):
    encoder, features = encoder_of(name), features_of()
    together = encoder(features, LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = encoder(features[b : b + 1, :length])
        torch.testing.assert_close(together[b : b + 1, :length], alone)


# How far they see


@pytest.mark.parametrize(
    ("options", "radius"),
    [
        ({"num_layers": 1, "kernel_size": 1}, 0),
        ({"num_layers": 1, "kernel_size": 5}, 2),
        ({"num_layers": 3, "kernel_size": 3}, 1 + 2 + 4),
        ({"num_layers": 4, "kernel_size": 3, "dilation_cycle": 2}, 1 + 2 + 1 + 2),
    ],
    ids=["point", "one layer", "dilated", "cycled"],
)
def test_a_convolution_sees_the_sum_of_its_dilations_and_no_further(options, radius):
    encoder = encoder_of("conv", **options)
    features = torch.randn(1, 41, D, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(H, dtype=torch.float64)
    (encoder(features)[0, 20] * weights).sum().backward()
    seen = features.grad[0].abs().sum(-1).nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == (20 - radius, 20 + radius)


def test_a_bilstm_sees_the_whole_sequence_and_nothing_past_its_length():
    encoder = encoder_of("bilstm")
    features = features_of(requires_grad=True)
    encoder(features, LENGTHS)[1, 3].sum().backward()
    seen = features.grad.abs().sum(-1) > 0
    assert seen[1].tolist() == [True] * 7 + [False] * 5
    assert not seen[0].any()


def test_a_unet_sees_twice_as_far_with_each_level():
    seen = []
    for num_layers in (1, 2, 3):
        encoder = encoder_of("unet", num_layers=num_layers, kernel_size=3)
        features = torch.randn(1, 64, D, dtype=torch.float64, requires_grad=True)
        weights = torch.randn(H, dtype=torch.float64)
        (encoder(features)[0, 32] * weights).sum().backward()
        seen.append(int((features.grad[0].abs().sum(-1) > 0).sum()))
    assert seen[0] == 5
    assert seen[1] > 2 * seen[0] and seen[2] > 2 * seen[1] - seen[0]


@pytest.mark.parametrize("causal", [False, True])
def test_an_ar_ssm_sees_the_whole_sequence_or_all_that_came_before(causal):
    encoder = encoder_of("ar-ssm", causal=causal)
    features = features_of(requires_grad=True)
    (encoder(features, LENGTHS)[1, 3] * torch.randn(H)).sum().backward()
    seen = features.grad.abs().sum(-1) > 0
    assert seen[1].tolist() == [True] * (4 if causal else 7) + [False] * (8 if causal else 5)
    assert not seen[0].any()


def test_an_ar_ssm_tells_left_from_right():
    encoder = encoder_of("ar-ssm", num_layers=1, kernel_size=1)
    features = features_of()
    turned = encoder(features.flip(1)).flip(1)
    assert (turned - encoder(features)).abs().max() > 1e-3


@pytest.mark.parametrize("normaliser", ["none", "mean", "decay"])
def test_a_causal_ar_ssm_streams_to_the_hidden_states_of_the_whole(normaliser):
    encoder = encoder_of("ar-ssm", causal=True, normaliser=normaliser)
    features, states, pieces = features_of(), None, []
    for piece in features.split([1, 2, 5, 4], dim=1):
        hidden, states = encoder.stream(piece, states)
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, 1), encoder(features))


def test_an_ar_ssm_that_is_not_causal_has_no_stream():
    with pytest.raises(ConfigError, match="a stream needs a causal layer"):
        encoder_of("ar-ssm").stream(features_of())


def test_the_penalty_of_an_ar_ssm_is_the_weighted_mean_gate_of_its_layers():
    encoder = encoder_of("ar-ssm", gate_l1=0.5, num_layers=3)
    for block in encoder.blocks:
        for weight in block.layer.gate_logits.parameters():
            torch.nn.init.zeros_(weight)
    hidden, penalty = encoder.forward_with_penalty(features_of(), LENGTHS)
    torch.testing.assert_close(penalty.item(), 3 * 0.5 * 0.5)
    assert torch.equal(hidden, hidden.masked_fill(~INSIDE, 0.0))


def test_a_checkpointed_ar_ssm_keeps_less_and_changes_no_bit():
    features, kept, results = features_of(), [], []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        encoder = create_encoder(
            "ar-ssm", D, H, gate_mode="gumbel", dropout=0.3, gradient_checkpointing=checkpointed
        ).double()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            hidden, penalty = encoder.forward_with_penalty(features, LENGTHS)
        ((hidden * torch.arange(H)).sum() + penalty).backward()
        results.append([hidden, *(p.grad for p in encoder.parameters())])
        kept.append(None)
    middle = kept.index(None)
    assert sum(kept[middle + 1 : -1]) < 0.2 * sum(kept[:middle])
    for plain, again in zip(*results, strict=True):
        assert torch.equal(plain, again)


def test_a_schedule_and_a_gate_mode_reach_every_layer_of_an_ar_ssm():
    encoder = encoder_of("ar-ssm", num_layers=3, max_rank=10, min_rank=2)
    assert encoder.update_rank_schedule(5, 10) == 6
    encoder.set_gate_mode("gumbel", 0.5)
    assert {block.layer.current_rank for block in encoder.blocks} == {6}
    assert {block.layer.gate_mode for block in encoder.blocks} == {"gumbel"}


# Training


@for_each_encoder
def test_gradients_reach_every_parameter(name):
    encoder = encoder_of(name)
    (encoder(features_of(), LENGTHS) * torch.randn(3, 12, H)).sum().backward()
    for parameter in encoder.parameters():
        assert bool(parameter.grad.isfinite().all())
        assert bool(parameter.grad.any())


@for_each_encoder
def test_dropout_acts_in_training_only(name):
    encoder, features = create_encoder(name, D, H, dropout=0.5), torch.randn(2, 9, D)
    assert not torch.equal(encoder(features), encoder(features))
    encoder.eval()
    assert torch.equal(encoder(features), encoder(features))


def test_one_lstm_layer_has_no_place_for_dropout_and_gives_no_warning():
    assert BiLSTMEncoder(D, H, num_layers=1, dropout=0.5).lstm.dropout == 0.0


@for_each_encoder
def test_autocast_gives_hidden_states_in_a_half_type(name):
    encoder = create_encoder(name, D, H).eval()
    features = torch.randn(3, 12, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = encoder(features, LENGTHS)
    torch.testing.assert_close(hidden.float(), encoder(features, LENGTHS), rtol=0.0, atol=0.1)


# Bad input

BAD_FEATURES = {
    "two dimensions": (
        torch.randn(12, D),
        r"features must be \(B, T, input_dim\) .* got \(12, 3\)",
    ),
    "another width": (torch.randn(3, 12, 4), r"= \(B, T, 3\) .* got \(3, 12, 4\)"),
    "no positions": (torch.randn(3, 0, D), r"with B, T >= 1, got \(3, 0, 3\)"),
}
BAD_LENGTHS = {
    "zero": (torch.tensor([12, 0, 1]), r"lengths must be in 1..T = 1..12, got \[12, 0, 1\]"),
    "too long": (torch.tensor([13, 7, 1]), "lengths must be in 1..T = 1..12"),
    "fractional": (torch.tensor([12.0, 7.5, 1.0]), "lengths must be integers"),
    "too few": (torch.tensor([12, 7]), r"lengths must be \(B,\) = \(3,\), got \(2,\)"),
}
BAD_OPTIONS = {
    "an unknown name": (
        "gru",
        {},
        r"encoder must be one of \['ar-ssm', 'bilstm', 'conv', 'unet'\], got 'gru'",
    ),
    "an unknown option": ("conv", {"kernel": 3}, "encoder 'conv': .*kernel"),
    "another encoder's option": ("bilstm", {"kernel_size": 3}, "encoder 'bilstm': .*kernel_size"),
    "an even kernel": ("conv", {"kernel_size": 4}, "kernel_size must be odd and >= 1, got 4"),
    "more ranks at the start": (
        "ar-ssm",
        {"max_rank": 2},
        "min_rank must be <= max_rank = 2, got 4",
    ),
    "two bad options": (
        "ar-ssm",
        {"gate_l1": -1.0, "normaliser": "max"},
        "(?s)l1_regularization must be a number >= 0.*normaliser must be None or one of mean",
    ),
    "no gates": ("ar-ssm", {"gate_mode": "hard"}, "gate mode must be one of soft, ste, gumbel"),
    "a negative kernel": ("conv", {"kernel_size": -1}, "kernel_size must be odd and >= 1, got -1"),
}


@for_each_encoder
@pytest.mark.parametrize(("features", "message"), BAD_FEATURES.values(), ids=BAD_FEATURES)
def test_bad_features_are_named(name, features, message):
    with pytest.raises(ShapeError, match=message):
        create_encoder(name, D, H)(features)


@for_each_encoder
@pytest.mark.parametrize(("lengths", "message"), BAD_LENGTHS.values(), ids=BAD_LENGTHS)
def test_bad_lengths_are_named(name, lengths, message):
    with pytest.raises(ShapeError, match=message):
        create_encoder(name, D, H)(torch.randn(3, 12, D), lengths)


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create_encoder(name, D, H, **options)


def test_both_directions_of_a_bilstm_must_fit_in_its_output():
    with pytest.raises(ConfigError, match="hidden_dim of a BiLSTM must be even, got 7"):
        create_encoder("bilstm", D, 7)


def test_the_names_stand_for_the_classes():
    assert type(create_encoder("conv", D, H)) is ConvEncoder
    assert type(create_encoder("bilstm", D, H)) is BiLSTMEncoder
    assert type(create_encoder("unet", D, H)) is UNetEncoder
    assert type(create_encoder("ar-ssm", D, H)) is ARSSMEncoder
