"""Scores that an implementation in the linear domain would lose, by name; each changes inputs."""

import torch
from factory import Size, make_inputs

K, C = 40, 9
FORBIDDEN = -torch.inf


def _long_only(x, T):
    x["duration_bias"][:20] = FORBIDDEN


def _long_better(x, T):
    x["duration_bias"] += torch.linspace(0.0, 400.0, K)[:, None]


def _times(factor):
    def change(x, T):
        x["scores"] *= factor

    return change


def _drift(x, T):
    x["scores"] += 3.0 * (torch.arange(C) - C / 2)


def _flipping_drift(x, T):
    x["duration_bias"][:19] = FORBIDDEN
    sign = 1.0 - 2.0 * (torch.arange(T) // 150 % 2)
    x["scores"] += sign[:, None] * 3.0 * (torch.arange(C) - C / 2)


def _gentle_drift(x, T):
    # inside a tile it stays within the bounds of the factors; over the open segments it does not
    x["duration_bias"][:19] = FORBIDDEN
    sign = 1.0 - 2.0 * (torch.arange(T) // 150 % 2)
    x["scores"] += sign[:, None] * 1.5 * (torch.arange(C) - C / 2)


def _left_to_right(x, T):
    later = torch.ones(C, C, dtype=torch.bool).triu()
    x["transition"].masked_fill_(~later, FORBIDDEN)
    x["start"][1:] = FORBIDDEN


def _forbidden_scores(x, T):
    draw = torch.rand(1, T, C, generator=torch.Generator().manual_seed(1))
    x["scores"][..., 1:].masked_fill_(draw[..., 1:] < 0.1, FORBIDDEN)


def _offset(by):
    def change(x, T):
        x["scores"] += by

    return change


def _poisson(x, T):
    d = torch.arange(1.0, K + 1, dtype=torch.float64)[:, None]
    rates = torch.logspace(1, -10, C, dtype=torch.float64)
    x["duration_bias"] = d * rates.log() - rates - torch.lgamma(d + 1)
    assert x["duration_bias"].min() < -1000.0


def _low_transitions(x, T):
    x["transition"] *= 500.0 / x["transition"].abs().max()
    x["transition"][::2, 1::2] -= 500.0


def _far_start(x, T):
    x["start"].fill_(FORBIDDEN)
    x["start"][3] = -800.0


def _one_label(x, T):
    x["scores"][..., 2] = 1e4


def _labels_in_turn(x, T):
    turn = torch.arange(T) // 130 % C
    x["scores"][0, torch.arange(T), turn] += 1e4


def _strong_boundaries(x, T):
    for name in ("start_scores", "end_scores"):
        x[name] *= 100.0


def _forbidden_boundaries(x, T):
    for name in ("start_scores", "end_scores"):
        draw = torch.rand(1, T, C, generator=torch.Generator().manual_seed(len(name)))
        x[name][..., 1:].masked_fill_(draw[..., 1:] < 0.7, FORBIDDEN)


def _closed_in_turn(drift):
    """Every other label may start, 50 positions at a time; the others end where that begins."""

    def change(x, T):
        part = torch.arange(T) // 50
        other = part[:, None] % 2 != torch.arange(C) % 2
        first = torch.arange(T) % 50 == 0
        sign = 1.0 - 2.0 * (torch.arange(T) // 150 % 2)
        x["scores"] += sign[:, None] * drift * (torch.arange(C) - C / 2)
        x["start_scores"].masked_fill_(other, FORBIDDEN)
        x["scores"].masked_fill_(other & first[:, None] & (part > 0)[:, None], FORBIDDEN)

    return change


CASES = {
    "plain": lambda x, T: None,
    "durations forbidden to 20": _long_only,
    "long durations 400 better": _long_better,
    "x10": _times(10.0),
    "x100": _times(100.0),
    "drift": _drift,
    "drift that flips, long segments": _flipping_drift,
    "gentle drift that flips, long segments": _gentle_drift,
    "left to right": _left_to_right,
    "forbidden scores": _forbidden_scores,
    "offset 30": _offset(30.0),
    "offset -1000": _offset(-1000.0),
    "Poisson durations": _poisson,
    "low transitions": _low_transitions,
    "far start": _far_start,
    "one label at 1e4": _one_label,
    "each label at 1e4 in turn": _labels_in_turn,
    "strong boundaries": _strong_boundaries,
    "forbidden boundaries": _forbidden_boundaries,
    "closed in turn": _closed_in_turn(0.0),
    "closed in turn, with a drift that flips": _closed_in_turn(1.5),
}
# Cases whose terms say something about the boundaries at every position.
BOUNDARIES = tuple(name for name in CASES if "boundaries" in name or "closed" in name)


def hostile(name, T, dtype=torch.float64):
    """Inputs of one sequence of T positions."""
    size = Size((T,), K=K, C=C)
    inputs = make_inputs(size, flags="start-end", seed=3)
    if name in BOUNDARIES:
        inputs |= {n: x for n, x in make_inputs(size, flags="boundary", seed=4).items()
                   if n not in inputs}  # fmt: skip
    CASES[name](inputs, T)
    return {n: x.to(dtype) if x.is_floating_point() else x for n, x in inputs.items()}


def marginal_tolerance(name):
    """Absolute error that a marginal may have: the step's own, 100 times the scores 1000 times."""
    return 1e-5 if name == "x100" else 1e-8
