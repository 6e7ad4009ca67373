"""Heads with random weights, and the enumeration that judges them."""

import numpy as np
import oracle
import torch
from torch import Tensor

from torch_semimarkov import SemiMarkovCRFHead
from torch_semimarkov.segments import Segments

C, K, D = 3, 4, 5
LENGTHS = (6, 4, 1)
T = max(LENGTHS)


def random_head(dtype: torch.dtype = torch.float64, **options) -> SemiMarkovCRFHead:
    """A head whose every parameter is random, so that no term hides behind a zero."""
    options = {"num_classes": C, "max_duration": K, "hidden_dim": D, **options}
    head = SemiMarkovCRFHead(**options).to(dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return head


def random_batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (B, T, D), lengths (B,) and labels (B, T) whose runs are at most K long."""
    hidden = torch.randn(len(LENGTHS), T, D, dtype=dtype)
    labels = torch.tensor([[0, 0, 0, 2, 1, 1], [1, 0, 0, 2, 2, 2], [2, 2, 2, 2, 2, 2]])
    return hidden, torch.tensor(LENGTHS), labels


def potentials_of(head: SemiMarkovCRFHead, hidden: Tensor) -> oracle.Sequence:
    """What the head should say of one sequence (L, D) without padding, in plain numpy.

    The duration bias is the duration model's own answer. No constraint is in it.
    """
    x = _numpy(hidden)
    nothing = np.zeros((len(x), head.num_classes))
    start, end = head.start_projection, head.end_projection
    tail = np.full(head.num_classes, -np.inf)
    if head.tail_logit is not None:
        tail = _numpy(torch.nn.functional.logsigmoid(head.tail_logit))
    return oracle.Sequence(
        scores=x if head.hidden_dim is None else _linear(head.projection, x),
        transition=_numpy(head.transition).copy(),
        duration_bias=_numpy(head.durations()).copy(),
        start=_numpy(head.start),
        end=_numpy(head.end),
        start_scores=nothing if start is None else _linear(start, x),
        end_scores=nothing if end is None else _linear(end, x),
        tail=tail,
    )


def enumerate_batch(
    head: SemiMarkovCRFHead, hidden: Tensor, lengths: Tensor
) -> list[oracle.Oracle]:
    """One oracle for each sequence of a batch."""
    return [
        oracle.Oracle(potentials_of(head, hidden[b, :length]))
        for b, length in enumerate(lengths.tolist())
    ]


def losses_of(judges: list[oracle.Oracle], segments: Segments) -> list[float]:
    """Negative log-likelihood of each sequence's segments, by enumeration."""
    golds = [tuple(tuple(segment) for segment in gold) for gold in segments.to_list()]
    return [
        judge.log_partition - judge.scores[judge.segmentations.index(gold)]
        for judge, gold in zip(judges, golds, strict=True)
    ]


def _linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ _numpy(layer.weight).T + _numpy(layer.bias)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()
