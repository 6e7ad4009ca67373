"""The choice of a backend: pinned, explained, with reasons, and never a silent other one."""

import sys
import threading
import types

import compiled_double
import pytest
import torch
from compiled_double import registered
from factory import SIZES, make_inputs, runs_on, with_grad

from torch_semimarkov import dispatch
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional import log_partition, marginals, segment_log_prob, viterbi
from torch_semimarkov.potentials import Potentials

EASY = Potentials(**make_inputs(SIZES[4], torch.float32)).canonical()
HARD = Potentials(**make_inputs(SIZES[4], torch.float32, "per-duration")).canonical()


@pytest.fixture
def double():
    with registered():
        yield compiled_double.calls


@pytest.fixture
def double_first():
    with registered(first=True):
        yield compiled_double.calls


@pytest.fixture
def broken():
    dispatch.register_backend("broken", "torch_semimarkov_no_such_module", first=True)
    yield
    dispatch.unregister_backend("broken")


def run_all(inputs, **options):
    gold = viterbi(**inputs, **options).segments
    marginals(**inputs, **options)
    segment_log_prob(gold, **inputs, **options)
    log_partition(**inputs, **options)
    log_partition(**with_grad(inputs), **options)
    log_partition(**with_grad(inputs), semiring="max", **options)


def test_the_reference_is_always_there():
    assert "reference" in dispatch.available_backends()


def test_a_backend_put_first_is_chosen_and_one_put_last_is_not(double):
    assert dispatch.available_backends()[-1] == "double"
    assert dispatch.explain_op("log_partition", EASY).chosen != "double"
    with registered(first=True):
        assert dispatch.available_backends()[0] == "double"
        assert dispatch.explain_op("log_partition", EASY).chosen == "double"
    dispatch.register_backend("double", "compiled_double")


def test_automatic_choice_runs_the_first_without_reasons_against(double_first):
    log_partition(**make_inputs(SIZES[4]))
    assert double_first == ["forward"]
    double_first.clear()
    log_partition(**make_inputs(SIZES[4], flags="per-duration"))
    assert double_first == []


def test_every_public_operation_runs_on_the_backend_asked_for(double):
    run_all(make_inputs(SIZES[4]), backend="double")
    assert {"forward", "backward", "viterbi"} == set(double)
    double.clear()
    run_all(make_inputs(SIZES[4]), backend="reference")
    assert double == []


def test_a_block_pins_every_call_in_it_and_only_those(double):
    inputs = make_inputs(SIZES[4])
    with dispatch.use_backend("double"):
        run_all(inputs)
    assert {"forward", "backward", "viterbi"} == set(double)
    double.clear()
    run_all(inputs, backend="reference")
    assert double == []


def test_blocks_nest_and_auto_lifts_the_pin(double):
    def chosen():
        return dispatch.explain_op("log_partition", EASY).chosen

    automatic = chosen()
    with dispatch.use_backend("double"):
        assert chosen() == "double"
        with dispatch.use_backend("reference"):
            assert chosen() == "reference"
        with dispatch.use_backend("auto"):
            assert chosen() == automatic
        assert chosen() == "double"
    assert chosen() == automatic


def test_a_pin_ends_with_its_block_even_after_an_error(double):
    with pytest.raises(RuntimeError, match="inside"), dispatch.use_backend("double"):
        raise RuntimeError("inside")
    assert dispatch.explain_op("log_partition", EASY).asked is None


def test_an_argument_beats_the_block_and_auto_does_not(double):
    with dispatch.use_backend("double"):
        assert dispatch.explain_op("viterbi", EASY, backend="reference").chosen == "reference"
        assert dispatch.explain_op("viterbi", EASY, backend="auto").chosen == "double"


def test_a_pin_does_not_reach_other_threads(double):
    seen = []
    with dispatch.use_backend("double"):
        thread = threading.Thread(
            target=lambda: seen.append(dispatch.explain_op("viterbi", EASY).asked)
        )
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_backend_asked_for_by_name_never_falls_back(double):
    message = r"(?s)cannot run .* by backend='double':\n  double: has no \(K, C, C\) transitions"
    inputs = make_inputs(SIZES[4], flags="per-duration")
    for function in (log_partition, viterbi, marginals):
        with pytest.raises(UnsupportedError, match=message):
            function(**inputs, backend="double")
        with dispatch.use_backend("double"), pytest.raises(UnsupportedError, match=message):
            function(**inputs)


def test_the_error_names_operation_device_and_type(double):
    with pytest.raises(
        UnsupportedError, match=r"log_partition\(semiring='log'\) on device=cpu, float32"
    ):
        dispatch.log_partition(HARD, backend="double")


def test_an_unknown_backend_is_an_error_that_lists_the_known():
    message = "backend must be one of .*'reference'.* or 'auto', got 'cuda'"
    with pytest.raises(UnsupportedError, match=message):
        log_partition(**make_inputs(SIZES[4]), backend="cuda")
    with pytest.raises(UnsupportedError, match=message), dispatch.use_backend("cuda"):
        pass


def test_an_operation_that_nobody_has_is_an_error_with_every_reason(double_first):
    with pytest.raises(UnsupportedError, match=r"(?s)double: .*reference: has no shuffle"):
        dispatch.select.choose("shuffle", HARD)


def test_an_explanation_says_who_runs_and_what_speaks_against_the_others(double_first):
    found = dispatch.explain_op("log_partition", HARD)
    assert found.reasons["double"] == ["has no (K, C, C) transitions"]
    assert found.reasons["reference"] == []
    head, *rows = str(found).splitlines()
    assert head == (f"log_partition(semiring='log') on device=cpu, float32: {found.chosen}")
    assert "  double     has no (K, C, C) transitions" in rows
    assert f"  {found.chosen:<9}  runs" in rows


def test_an_explanation_shows_who_could_run_too(double):
    rows = str(dispatch.explain_op("viterbi", EASY)).splitlines()
    assert "  double     could run" in rows


def test_an_explanation_of_a_pinned_call_looks_at_that_backend_alone(double):
    found = dispatch.explain_op("log_partition", HARD, backend="double")
    assert (found.chosen, found.asked) == (None, "double")
    assert list(found.reasons) == ["double"]
    assert "no backend" in str(found)


def test_a_backend_that_cannot_be_imported_is_passed_over_with_its_reason(broken):
    found = dispatch.explain_op("log_partition", EASY)
    assert "cannot be loaded" in found.reasons["broken"][0]
    assert found.chosen != "broken"
    assert log_partition(**make_inputs(SIZES[4])).isfinite().all()
    with pytest.raises(UnsupportedError, match="'broken' cannot be loaded: No module named"):
        log_partition(**make_inputs(SIZES[4]), backend="broken")


def test_a_backend_is_imported_at_the_first_call_that_considers_it():
    dispatch.register_backend("late", "late_backend")
    try:
        assert "late" in dispatch.available_backends()
        sys.modules["late_backend"] = types.SimpleNamespace(
            NAME="late", COMPOSITE=True, reasons_against=lambda *_: ["is too late"]
        )
        assert dispatch.explain_op("viterbi", EASY, backend="late").reasons == {
            "late": ["is too late"]
        }
    finally:
        dispatch.unregister_backend("late")
        sys.modules.pop("late_backend", None)


def test_a_name_registered_again_replaces_the_backend():
    with registered():
        assert dispatch.registry.load("double").NAME == "double"
        sys.modules["late_backend"] = types.SimpleNamespace(NAME="other")
        dispatch.register_backend("double", "late_backend")
        try:
            assert dispatch.registry.load("double").NAME == "other"
        finally:
            sys.modules.pop("late_backend", None)


def test_a_backend_that_was_unregistered_is_unknown():
    with registered():
        log_partition(**make_inputs(SIZES[4]), backend="double")
    assert "double" not in dispatch.available_backends()
    with pytest.raises(UnsupportedError, match="got 'double'"):
        log_partition(**make_inputs(SIZES[4]), backend="double")


def test_the_spy_of_the_contract_tests_notices_another_backend(double):
    with (
        pytest.raises(AssertionError, match="double was pinned, these ran"),
        runs_on("double"),
    ):
        log_partition(**make_inputs(SIZES[4]), backend="reference")


def test_the_spy_of_the_contract_tests_notices_that_nothing_ran(double):
    with pytest.raises(AssertionError, match="double was pinned"), runs_on("double"):
        pass
