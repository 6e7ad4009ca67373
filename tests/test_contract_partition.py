"""Contract of log_partition and its gradients: backend x size x type x flags, by enumeration."""

import pytest
import torch
from factory import (
    LARGER_SIZES,
    PER_POSITION,
    SIZES,
    device_of,
    for_each_backend,
    for_each_dtype,
    for_each_flags,
    for_each_other_backend,
    for_each_size,
    gradients_of,
    make_inputs,
    one_sequence,
    oracles,
    outside_of,
    runs_on,
    stacked,
    tensors,
    upstream,
    with_grad,
    with_padding,
)
from tolerances import assert_close

from torch_semimarkov.backends.reference.partition import composite
from torch_semimarkov.functional import log_partition
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import by_name

for_each_semiring = pytest.mark.parametrize("semiring", ["log", "max"])
for_each_ragged_size = pytest.mark.parametrize("size", [SIZES[3], SIZES[4], SIZES[5]], ids=str)


@for_each_backend
@for_each_size
@for_each_dtype
@for_each_flags
def test_the_log_partition_is_the_enumerated_one(backend, size, dtype, flags):
    inputs = make_inputs(size, dtype, flags, device=device_of(backend))
    with runs_on(backend):
        value = log_partition(**inputs)
    truth = [found.log_partition for found in oracles(size, dtype, flags)]
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert_close("log_partition", dtype, value, truth)


@for_each_backend
@for_each_size
@for_each_dtype
@for_each_flags
def test_in_the_max_semiring_it_is_the_best_score(backend, size, dtype, flags):
    inputs = make_inputs(size, dtype, flags, device=device_of(backend))
    with runs_on(backend):
        value = log_partition(**inputs, semiring="max")
        with_graph = log_partition(**with_grad(inputs), semiring="max")
    truth = [found.best_score for found in oracles(size, dtype, flags)]
    assert_close("score", dtype, value, truth)
    assert_close("score", dtype, with_graph, truth)


@for_each_backend
@for_each_size
@for_each_dtype
@for_each_flags
@for_each_semiring
def test_every_gradient_is_the_expected_count(backend, size, dtype, flags, semiring):
    inputs = with_grad(make_inputs(size, dtype, flags, device=device_of(backend)))
    weight = upstream(size.B, torch.promote_types(dtype, torch.float32), device_of(backend))
    with runs_on(backend):
        value = log_partition(**inputs, semiring=semiring)
        gradients = gradients_of(value, inputs, weight)
    found = oracles(size, dtype, flags)
    expected = [one.gradient() if semiring == "log" else one.best_counts() for one in found]
    for name, gradient in gradients.items():
        weighted = [w * one[name] for w, one in zip(weight.tolist(), expected, strict=True)]
        assert gradient.dtype == dtype
        assert_close("gradient", dtype, gradient, stacked(inputs, name, weighted))


@for_each_backend
@for_each_ragged_size
@for_each_flags
@for_each_semiring
def test_a_ragged_batch_equals_its_items_one_by_one(backend, size, flags, semiring):
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    leaves = with_grad(inputs)
    weight = upstream(size.B, device=device_of(backend))
    with runs_on(backend):
        value = log_partition(**leaves, semiring=semiring)
        gradients = gradients_of(value, leaves, weight)
        shared = {name: 0.0 for name in gradients if name not in PER_POSITION}
        for b, L in enumerate(size.lengths):
            alone = with_grad(one_sequence(inputs, b))
            item = log_partition(**alone, semiring=semiring)
            assert torch.equal(item, value[b : b + 1])
            for name, grad in gradients_of(item, alone, weight[b : b + 1]).items():
                if name in PER_POSITION:
                    assert_close("gradient", torch.float64, gradients[name][b, :L], grad[0])
                else:
                    shared[name] = shared[name] + grad
    for name, total in shared.items():
        assert_close("gradient", torch.float64, gradients[name], total)


@for_each_backend
@for_each_ragged_size
@for_each_flags
@for_each_semiring
@pytest.mark.parametrize(
    ("dtype", "junk"),
    [(torch.float64, torch.nan), (torch.float32, torch.inf), (torch.bfloat16, 1e4)],
    ids=str,
)
def test_padding_never_reaches_the_result(backend, size, flags, semiring, dtype, junk):
    inputs = make_inputs(size, dtype, flags, device=device_of(backend))
    weight = upstream(size.B, torch.promote_types(dtype, torch.float32), device_of(backend))
    with runs_on(backend):
        results = []
        for case in (with_grad(inputs), with_grad(with_padding(inputs, junk))):
            value = log_partition(**case, semiring=semiring)
            results.append((value, gradients_of(value, case, weight)))
    (clean, clean_gradients), (value, gradients) = results
    assert torch.equal(value, clean)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, clean_gradients[name]), name
        if name in PER_POSITION:
            assert (gradient[outside_of(inputs)] == 0).all(), name


@for_each_backend
@for_each_flags
def test_more_padding_and_other_batch_mates_change_nothing(backend, flags):
    size = SIZES[4]
    inputs = make_inputs(size, torch.float32, flags, device=device_of(backend))
    wider = {
        name: torch.cat((x, x.new_full((size.B, 17, size.C), 3.0)), 1)
        if name in PER_POSITION
        else x
        for name, x in inputs.items()
    }
    fewer = {name: x[1:] if name in (*PER_POSITION, "lengths") else x for name, x in inputs.items()}
    with runs_on(backend):
        value = log_partition(**inputs)
        assert torch.equal(log_partition(**wider), value)
        assert torch.equal(log_partition(**fewer), value[1:])


@for_each_backend
@pytest.mark.parametrize("size", [SIZES[4], LARGER_SIZES[2]], ids=str)
@for_each_flags
@for_each_semiring
def test_the_same_call_twice_gives_the_same_bits(backend, size, flags, semiring):
    inputs = with_grad(make_inputs(size, torch.float32, flags, device=device_of(backend)))
    weight = upstream(size.B, torch.float32, device_of(backend))
    with runs_on(backend):
        values = [log_partition(**inputs, semiring=semiring) for _ in range(2)]
        first, second = (gradients_of(value, inputs, weight) for value in values)
    assert torch.equal(*values)
    assert all(torch.equal(first[name], second[name]) for name in first)


@for_each_backend
@for_each_size
@pytest.mark.parametrize("flags", ["impossible", "impossible-per-duration"])
@for_each_semiring
def test_an_impossible_sequence_gets_minus_infinity_and_gradient_zero(
    backend, size, flags, semiring
):
    inputs = with_grad(make_inputs(size, flags=flags, device=device_of(backend)))
    with runs_on(backend):
        value = log_partition(**inputs, semiring=semiring)
        gradients = gradients_of(value, inputs, torch.ones_like(value))
    assert value[0] == -torch.inf
    assert value[1:].isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert (gradients["scores"][0] == 0).all()


@for_each_other_backend
@pytest.mark.parametrize("size", LARGER_SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("flags", ["plain", "boundary", "all", "impossible"])
def test_beyond_enumeration_the_reference_in_float64_is_the_judge(backend, size, dtype, flags):
    inputs = with_grad(make_inputs(size, dtype, flags, device=device_of(backend)))
    wide = with_grad({n: x.double() if x.is_floating_point() else x for n, x in inputs.items()})
    weight = upstream(size.B, device=device_of(backend))
    with runs_on(backend):
        value = log_partition(**inputs)
        gradients = gradients_of(value, inputs, weight.to(dtype))
    truth = log_partition(**wide, backend="reference")
    assert_close("log_partition", dtype, value, truth)
    for name, gradient in gradients_of(truth, wide, weight).items():
        assert_close("gradient", dtype, gradients[name], gradient)


@pytest.mark.parametrize("flags", ["plain", "forbidden", "impossible"])
def test_the_lean_gradient_of_the_reference_is_that_of_autograd(flags):
    size = LARGER_SIZES[0]
    inputs = with_grad(make_inputs(size, flags=flags))
    weight = upstream(size.B)
    lean = gradients_of(log_partition(**inputs, backend="reference"), inputs, weight)
    total = composite(Potentials(**inputs), by_name("log"))
    for name, gradient in gradients_of(total, inputs, weight).items():
        assert_close("gradient", torch.float64, lean[name], gradient)


@for_each_backend
def test_the_result_is_of_the_type_of_the_scores_whatever_the_other_terms_are(backend):
    inputs = make_inputs(SIZES[4], torch.float32, "all", device=device_of(backend))
    mixed = {**inputs, "scores": inputs["scores"].half(), "start": inputs["start"].double()}
    wide = {name: x.double() if x.is_floating_point() else x for name, x in mixed.items()}
    with runs_on(backend):
        value, truth = log_partition(**mixed), log_partition(**wide)
    assert value.dtype == torch.float32
    assert_close("log_partition", torch.float32, value, truth)


@for_each_backend
def test_terms_without_a_gradient_get_none_and_the_others_theirs(backend):
    inputs = with_grad(make_inputs(SIZES[4], flags="boundary", device=device_of(backend)))
    frozen = {**inputs, "transition": inputs["transition"].detach()}
    with runs_on(backend):
        log_partition(**inputs).sum().backward()
        expected = {name: x.grad.clone() for name, x in tensors(inputs).items()}
        inputs["scores"].grad = None
        log_partition(**frozen).sum().backward()
    assert torch.equal(inputs["scores"].grad, expected["scores"])
    assert frozen["transition"].grad is None
