"""The race checker bites: each kind of race in a little kernel is found, and clean ones pass."""

import os
import re

import pytest
import torch

if not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("needs TRITON_INTERPRET=1: make test-triton", allow_module_level=True)
triton = pytest.importorskip("triton")

import race_checker  # noqa: E402
import triton.language as tl  # noqa: E402

N = 16


# Clean kernels


@triton.jit
def shift_with_barriers(p_x, p_ring, p_y, STEPS: tl.constexpr, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o, tl.load(p_x + o))
    tl.debug_barrier()
    for _ in range(STEPS):
        b = tl.load(p_ring + (o + 1) % N)
        tl.debug_barrier()
        tl.store(p_ring + o, b + tl.sum(b, 0))
        tl.debug_barrier()
    tl.store(p_y + o, tl.load(p_ring + o))


@triton.jit
def one_row_a_program(p_x, p_y, n, N: tl.constexpr):
    i = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    o = tl.arange(0, N)
    m = o < n
    tl.store(p_y + i * n + o, 2.0 * tl.load(p_x + i * n + o, mask=m, other=0.0), mask=m)


@triton.jit
def two_places_without_a_barrier(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o, tl.load(p_x + o))
    tl.store(p_ring + N + o, tl.load(p_x + o))
    tl.debug_barrier()
    tl.store(p_y + o, tl.load(p_ring + o) + tl.load(p_ring + N + (o + 1) % N))


@triton.jit
def add_in_place(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    for _ in range(3):
        tl.store(p_y + o, tl.load(p_y + o) + tl.load(p_x + o))
        tl.debug_barrier()


# One race each


@triton.jit
def load_after_store(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o, tl.load(p_x + o))
    tl.store(p_y + o, tl.load(p_ring + (o + 1) % N))


@triton.jit
def store_after_load(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o, tl.load(p_x + o))
    tl.debug_barrier()
    b = tl.load(p_ring + (o + 1) % N)
    tl.store(p_ring + o, b)
    tl.store(p_y + o, b)


@triton.jit
def add_elsewhere_in_place(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, tl.load(p_x + o) + tl.load(p_y + (o + 1) % N))


@triton.jit
def a_sum_is_no_barrier(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    b = tl.load(p_x + o)
    tl.store(p_ring + o, b)
    b += tl.sum(b, 0)
    tl.store(p_y + o, b + tl.load(p_ring + o))


@triton.jit
def store_after_store(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o, tl.load(p_x + o))
    tl.store(p_ring + N - 1 - o, tl.load(p_x + o))
    tl.debug_barrier()
    tl.store(p_y + o, tl.load(p_ring + o))


@triton.jit
def one_address_from_two_lanes(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o // 2, tl.load(p_x + o))
    tl.debug_barrier()
    tl.store(p_y + o, tl.load(p_ring + o // 2))


@triton.jit
def a_scalar_without_a_barrier(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    b = tl.load(p_x + o)
    tl.store(p_ring, tl.max(b, 0))
    tl.store(p_y + o, b - tl.load(p_ring))


@triton.jit
def a_loop_without_its_second_barrier(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o, tl.load(p_x + o))
    tl.debug_barrier()
    for _ in range(3):
        b = tl.load(p_ring + (o + 1) % N)
        tl.debug_barrier()
        tl.store(p_ring + o, b)
    tl.debug_barrier()
    tl.store(p_y + o, tl.load(p_ring + o))


@triton.jit
def atomic(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.atomic_add(p_y + o, tl.load(p_x + o))


@triton.jit
def outside(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, tl.load(p_x + o + 1))


@triton.jit
def never_stored(p_x, p_ring, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_ring + o, tl.load(p_x + o), mask=o < N - 1)
    tl.debug_barrier()
    tl.store(p_y + o, tl.load(p_ring + o))


@triton.jit
def several_programs_one_sum(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    b = tl.load(p_x + tl.program_id(0) * N + o)
    tl.store(p_y + o, b + tl.load(p_y + o))


@triton.jit
def several_programs_one_place(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, tl.load(p_x + tl.program_id(0) * N + o))


@triton.jit
def a_neighbour_is_read(p_x, p_y, N: tl.constexpr):
    i, o = tl.program_id(0), tl.arange(0, N)
    later = tl.minimum(i + 1, tl.num_programs(0) - 1)
    b = tl.load(p_x + later * N + o)
    tl.store(p_x + i * N + o, 2.0 * b)
    tl.store(p_y + o, b, mask=o < N - i * N)


@triton.jit
def store_past_the_end(p_y, N: tl.constexpr):
    tl.store(p_y + tl.arange(0, N), tl.full((N,), 1.0, tl.float32))


X = torch.linspace(1.0, 2.0, N)


def run(kernel, *options):
    def call():
        y, ring = torch.zeros(N), torch.empty(2 * N)
        kernel[(1,)](X, ring, y, *options, N=N)
        return {"y": y}

    return race_checker.findings(call)


def run_grid(kernel):
    def call():
        x, y = torch.arange(4.0 * N), torch.zeros(N)
        kernel[(4,)](x, y, N=N)
        return y, [x]

    return race_checker.findings(call)


def test_clean_kernels_pass():
    assert run(shift_with_barriers, 3) == []
    assert run(two_places_without_a_barrier) == []
    assert run(add_in_place) == []


def test_programs_that_keep_to_themselves_pass():
    def call():
        y = torch.empty(6, 5)
        one_row_a_program[(2, 3)](torch.ones(6, 5), y, 5, N=8)
        return y

    assert race_checker.findings(call) == []
    assert race_checker.launched_by(call) == {"one_row_a_program"}


RACES = {
    load_after_store: "loads p_ring.*stored by .* no barrier between",
    store_after_load: "stores p_ring.*loaded by .* no barrier between",
    add_elsewhere_in_place: "stores p_y.*loaded by .* no barrier between",
    a_sum_is_no_barrier: "loads p_ring.*stored by .* no barrier between",
    store_after_store: "stores p_ring.*stored by .* no barrier between",
    one_address_from_two_lanes: "stores p_ring.* more than once",
    a_scalar_without_a_barrier: "loads p_ring.*stored by .* no barrier between",
    a_loop_without_its_second_barrier: "loads p_ring.*stored by .* no barrier between",
    atomic: "is atomic",
    outside: r"touches p_x\[16\], which is outside",
}


@pytest.mark.parametrize("kernel", RACES, ids=lambda kernel: kernel.__name__)
def test_each_race_within_a_program_is_found_with_its_lines(kernel):
    found = run(kernel)
    here = rf"^{kernel.__name__}: test_race_checker.py:\d+ "
    matches(found, here + RACES[kernel])


def matches(found, pattern):
    assert any(re.search(pattern, line) for line in found), found


@pytest.mark.parametrize(
    ("kernel", "pattern"),
    [
        (several_programs_one_sum, "loads p_y.*stored by another program"),
        (several_programs_one_place, "stores p_y.*stored by another program"),
        (a_neighbour_is_read, "by another program"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_race_between_programs_is_found(kernel, pattern):
    matches(run_grid(kernel), pattern)


@pytest.mark.parametrize("kernel", [load_after_store, a_loop_without_its_second_barrier])
def test_a_race_also_changes_the_result(kernel):
    matches(run(kernel), "changes the result")


def test_scratch_that_is_never_stored_changes_the_result():
    assert run(never_stored) == [f"order {seed} changes the result" for seed in (0, 1, 2)]


def test_a_store_outside_is_not_carried_out():
    found = race_checker.findings(lambda: store_past_the_end[(1,)](torch.zeros(4), N=N))
    matches(found, r"p_y\[4\], which is outside")


def test_nothing_stays_patched():
    before = torch.empty, race_checker.interpreter.GridExecutor.__call__
    run(load_after_store)
    assert before == (torch.empty, race_checker.interpreter.GridExecutor.__call__)
    assert "create_barrier" not in vars(race_checker.interpreter.interpreter_builder)
