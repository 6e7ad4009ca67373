"""The triton backend without a GPU: ``python tests/interpreted.py [options of pytest]``.

Runs under TRITON_INTERPRET=1 the tests of the kernels and a picked part of the contract tests. Long
sequences are left out: the interpreter takes milliseconds for each position. A pick without a test
fails, and so does a skipped test, unless its reason is one of ``SKIPS``.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OWN = ("test_triton_*.py", "test_race_checker.py")
# Contract test -> one in so many of its cases on this backend, along the diagonals of its table of
# sizes, types and flags, so that every size meets both types and every set of flags is there.
PICKS = {
    "test_contract_partition.py": {
        "test_the_log_partition_is_the_enumerated_one": 8,
        "test_in_the_max_semiring_it_is_the_best_score": 8,
        "test_every_gradient_is_the_expected_count": 8,
        "test_a_ragged_batch_equals_its_items_one_by_one": 6,
        "test_padding_never_reaches_the_result": 12,
        "test_more_padding_and_other_batch_mates_change_nothing": 2,
        "test_the_same_call_twice_gives_the_same_bits": 16,
        "test_an_impossible_sequence_gets_minus_infinity_and_gradient_zero": 4,
        "test_terms_without_a_gradient_get_none_and_the_others_theirs": 1,
        "test_the_result_is_of_the_type_of_the_scores_whatever_the_other_terms_are": 1,
    },
    "test_contract_marginals.py": {
        "test_every_marginal_is_the_enumerated_one": 16,
        "test_they_are_consistent_with_one_another": 8,
        "test_padding_never_reaches_the_marginals": 4,
        "test_they_need_no_gradient_mode": 4,
    },
    "test_contract_viterbi.py": {
        "test_path_and_score_are_those_of_the_best_segmentation": 8,
        "test_of_equal_segmentations_the_documented_one_is_taken": 8,
        "test_a_ragged_batch_decodes_like_its_items": 3,
        "test_padding_never_reaches_the_path": 3,
        "test_an_impossible_sequence_is_an_error_that_names_it": 1,
        "test_the_result_carries_no_graph_and_fits_its_width": 1,
    },
    "test_sample.py": {
        "test_frequencies_are_the_enumerated_probabilities": 4,
        "test_the_chi_squared_test_bites": 1,
        "test_padding_never_reaches_a_sample": 1,
        "test_a_generator_makes_samples_reproducible": 1,
        "test_an_impossible_sequence_is_an_error_that_names_it": 1,
    },
    "test_posterior_questions.py": {
        "test_the_probability_of_a_segment_is_that_of_all_segmentations_with_it": 2,
        "test_the_posterior_of_the_duration_at_a_position": 4,
        "test_max_marginals_are_the_best_of_what_has_it": 2,
    },
    "test_contract_derivatives.py": {
        "test_checkpoints_change_neither_value_nor_gradient": 3,
        "test_the_gradient_of_a_loss_passes_gradcheck": 2,
        "test_every_backend_gives_a_second_derivative_and_it_is_the_references": 1,
    },
    "test_entropy.py": {
        "test_the_entropy_is_the_enumerated_one": 16,
        "test_the_gradient_of_the_entropy_is_the_enumerated_one": 8,
    },
    "test_contract_inputs.py": {"test_bad_input_is_one_clear_error": 20},
    "test_contract_segments.py": {
        "test_the_gradient_of_a_log_probability_is_counts_less_expected_counts": 12,
    },
}
# Reasons for which a picked test may be skipped, as regular expressions.
SKIPS: tuple[str, ...] = (
    "the interpreter takes the place of the compiler",
    "has no geometric tail",
    "with a geometric tail",
    "has no tangent of",
)
_HALF = re.compile("float16")


def main(options: list[str]) -> int:
    """Run pytest on what is picked; its exit status."""
    files = [str(path) for pattern in OWN for path in sorted(TESTS.glob(pattern))]
    files += [str(TESTS / name) for name in PICKS]
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-p", "interpreted", *(options or ["-q", "-n", "2"])]
    return subprocess.run([*command, *files], env=environment, check=False).returncode


# What follows is the plugin that ``-p interpreted`` loads.


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not picked."""
    kept, out, met, seen = [], [], set(), {}
    for item in items:
        name = item.path.name
        step = PICKS.get(name, {}).get(getattr(item, "originalname", ""))
        mine = name not in PICKS
        if step is not None:
            values = seen.setdefault((name, item.originalname), {})
            mine = is_picked(item.callspec.params, step, values)
        (kept if mine else out).append(item)
        if mine and step is not None:
            met.add((name, item.originalname))
    wanted = {(name, test) for name, picks in PICKS.items() for test in picks}
    given = {item.path.name for item in items}
    missing = sorted(test for name, test in wanted - met if name in given)
    if missing:
        raise pytest.UsageError(f"no test to pick for {', '.join(missing)}")
    items[:] = kept
    config.hook.pytest_deselected(items=out)


def is_picked(case: dict, step: int, seen: dict[str, list[str]]) -> bool:
    """True for the cases of this backend that lie on every ``step``-th diagonal.

    ``seen`` holds the values that each parameter of the test had so far.
    """
    texts = {name: str(value) for name, value in case.items()}
    if texts.pop("backend", None) != "triton" or _HALF.search(texts.get("dtype", "")):
        return False
    place = 0
    for name, text in texts.items():
        values = seen.setdefault(name, [])
        if text not in values:
            values.append(text)
        place += values.index(text) * (3 if name == "dtype" else 1)
    return place % step == 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Let a test that is skipped for another reason than a listed one fail."""
    return fail_unless_listed((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Let a file that is skipped fail."""
    return fail_unless_listed((yield))


def fail_unless_listed(report):
    """The report, failed if it tells of a skip that is not listed."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[-1])
        if not any(re.search(known, reason) for known in SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be: {reason}"
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
