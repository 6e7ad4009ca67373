"""SemiMarkov beside pytorch-struct, where that is right: batches of one length, one model.

Its ragged batches are wrong (its issues 110 and 117): a segment that starts past the shortest
sequence may have one position only, and one may end past its sequence. So it gets them one by one.
Its cross-entropy and KL semirings take a list, which its SemiMarkov does not.
"""

import pytest
import torch
from edge_cases import make_edges
from semimarkov_cases import K_BEST
from tolerances import assert_close

from torch_semimarkov import SemiMarkov
from torch_semimarkov.semirings import KMaxSemiring

torch_struct = pytest.importorskip("torch_struct", reason="needs pytorch-struct, a peer")
peers = torch_struct.semirings

float64 = torch.float64
# B, N-1, K, C and lengths; some that reach N and some that do not.
SIZES = {
    "linear chain": (2, 5, 1, 3, (6, 6)),
    "durations": (2, 6, 3, 2, (7, 7)),
    "ragged": (3, 6, 3, 2, (7, 5, 3)),
    "none reaches N": (3, 6, 2, 2, (6, 4, 2)),
    "one label": (1, 9, 5, 1, (10,)),
}
SEMIRINGS = {
    "log": ("log", peers.LogSemiring),
    "max": ("max", peers.MaxSemiring),
    "std": ("std", peers.StdSemiring),
    "entropy": ("entropy", peers.EntropySemiring),
    "kmax": (KMaxSemiring(K_BEST), peers.KMaxSemiring(K_BEST)),
}
for_each_size = pytest.mark.parametrize("size", SIZES)


def theirs(edge, length):
    """One sequence where pytorch-struct looks for it: row d for a duration of d, row 0 unused."""
    alone = edge[None, : length - 1]
    return torch.cat((torch.zeros_like(alone[:, :, :1]), alone), 2)


def inputs_of(size):
    # Its stand-ins for -inf are finite, so nothing is forbidden here.
    return make_edges(SIZES[size], forbid=0.0)


@for_each_size
@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize("scan", ["linear", "tree"])
def test_totals_are_those_of_pytorch_struct(size, name, scan):
    ours, peer = SEMIRINGS[name]
    edge, lengths = inputs_of(size)
    edge = edge.exp() if name == "std" else edge
    value = SemiMarkov(ours, scan=scan).sum(edge, lengths)
    for b, length in enumerate(lengths.tolist()):
        expected, _ = torch_struct.SemiMarkov(peer).logpartition(theirs(edge[b], length))
        expected = expected if name == "kmax" else peer.unconvert(expected)
        # Where there are fewer than k segmentations, it fills up with a finite number.
        found = torch.where(value[..., b] == -torch.inf, expected[..., 0], value[..., b])
        assert_close("log_partition", float64, found, expected[..., 0])
        assert name != "kmax" or (expected[value[:, b] == -torch.inf] < -1e4).all()


@for_each_size
@pytest.mark.parametrize("name", ["log", "max"])
def test_marginals_are_those_of_pytorch_struct(size, name):
    ours, peer = SEMIRINGS[name]
    edge, lengths = inputs_of(size)
    found = SemiMarkov(ours).marginals(edge, lengths)
    for b, length in enumerate(lengths.tolist()):
        expected = torch_struct.SemiMarkov(peer).marginals(theirs(edge[b], length))[0]
        assert not expected[:, 0].any()
        assert_close("marginals", float64, found[b, : length - 1], expected[:, 1:])
        assert not found[b, length - 1 :].any()


def test_parts_and_scores_are_those_of_pytorch_struct_one_row_lower():
    sequence = torch.tensor([[1, -1, 0, 2, 1], [0, 0, -1, -1, 2]])
    ours = SemiMarkov.to_parts(sequence, (3, 3))
    expected = torch_struct.SemiMarkov.to_parts(sequence, (3, 4))
    assert torch.equal(ours, expected[:, :, 1:])
    back, _ = torch_struct.SemiMarkov.from_parts(expected)
    assert torch.equal(SemiMarkov.from_parts(ours)[0], back)
    edge = torch.randn(2, 4, 3, 3, 3, dtype=float64)
    padded = torch.cat((torch.zeros_like(edge[:, :, :1]), edge), 2)
    score = torch_struct.SemiMarkov(peers.LogSemiring).score(padded, expected)
    assert_close("score", float64, SemiMarkov("log").score(edge, ours), score)


def test_a_ragged_batch_is_where_pytorch_struct_goes_wrong():
    """If this fails, a newer pytorch-struct may be right, and whole batches can be compared."""
    edge, lengths = inputs_of("ragged")
    padded = torch.cat((torch.zeros_like(edge[:, :, :1]), edge), 2)
    value, _ = torch_struct.SemiMarkov(peers.LogSemiring).logpartition(padded, lengths)
    alone = SemiMarkov("log").sum(edge[:1])
    assert float(value.detach()[0, 0] - alone) < -0.1
