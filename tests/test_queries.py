"""The head's queries: samples and the k best of its posterior, and what they refuse."""

import pytest
import torch
from head_cases import C, random_batch, random_head

from torch_semimarkov import functional
from torch_semimarkov.errors import NumericsError, ShapeError, UnsupportedError

QUERIES = {
    "sample": {"num_samples": 3},
    "kbest": {"k": 2},
    "marginals": {},
    "distribution": {},
}
for_each_query = pytest.mark.parametrize("name", QUERIES)
pytestmark = pytest.mark.filterwarnings("ignore:there are not k = 2 segmentations")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("options", [{}, {"boundary_scores": True}, {"min_duration": [1, 2, 1]}])
def test_queries_are_those_of_the_functions_on_its_potentials(backend, options):
    head, (hidden, lengths, *_) = random_head(**options), random_batch()
    terms = head.potentials(hidden, lengths)
    best = head.kbest(hidden, lengths, k=2, backend=backend)
    wanted = functional.kbest(**terms, k=2, backend=backend)
    assert torch.equal(best.scores, wanted.scores) and best.segments == wanted.segments
    drawn, wanted = (
        call(num_samples=5, generator=torch.Generator().manual_seed(1), backend=backend, **more)
        for call, more in (
            (head.sample, {"hidden": hidden, "lengths": lengths}),
            (functional.sample, terms),
        )
    )
    assert drawn == wanted
    functional.segment_score(drawn, **terms, validate_segments=True)


@for_each_query
def test_a_wrong_shape_is_refused(name):
    head, (hidden, lengths, *_) = random_head(), random_batch()
    with pytest.raises(ShapeError, match="hidden must be"):
        getattr(head, name)(hidden[..., 1:], lengths, **QUERIES[name])


@for_each_query
def test_nan_in_the_hidden_states_is_named(name):
    head, (hidden, lengths, *_) = random_head(), random_batch()
    hidden[0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match="hidden holds 1 NaN"):
        getattr(head, name)(hidden, lengths, **QUERIES[name])


@for_each_query
def test_the_exact_path_is_no_backend_of_theirs(name):
    head, (hidden, lengths, *_) = random_head(), random_batch()
    with pytest.raises(UnsupportedError, match=f'{name} has no backend="exact"'):
        getattr(head, name)(hidden, lengths, backend="exact", **QUERIES[name])


def test_samples_and_the_best_record_no_gradient():
    head, (hidden, lengths, *_) = random_head(), random_batch()
    assert not head.kbest(hidden, lengths, k=2).scores.requires_grad
    assert head.marginals(hidden, lengths).labels.requires_grad
    assert head.distribution(hidden, lengths).log_partition.requires_grad
    assert head.distribution(hidden, lengths).marginals.labels.shape[-1] == C
