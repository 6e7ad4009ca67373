"""Compiling kernels without a GPU: the command line, what is recorded, and what figures say."""

import os
import re
import sys

import compile_kernels
import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("an interpreted kernel cannot be compiled", allow_module_level=True)

import kernel_figures  # noqa: E402
import triton.language as tl  # noqa: E402


@triton.jit
def tiny(p_x, p_y, n, N: tl.constexpr, TWICE: tl.constexpr):
    o = tl.arange(0, N)
    b = tl.load(p_x + o, mask=o < n, other=0.0)
    for _ in range(n):
        b += tl.sum(b, 0)
        if TWICE:
            b *= 2.0
    tl.store(p_y + o, b, mask=o < n)


@triton.jit
def with_room(p_x, p_room, N: tl.constexpr):
    o = tl.arange(0, N)
    if p_room is not None:
        tl.store(p_room + o, tl.load(p_x + o))


@triton.jit
def greedy(p_x, N: tl.constexpr):
    o = tl.arange(0, N)
    b = tl.load(p_x + o)
    tl.store(p_x + o, b / tl.sum(b, 0))


@triton.jit
def broken(p_x, N: tl.constexpr):
    tl.store(p_x + tl.arange(0, N), tl.zeros((N + 1,), tl.float32))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def launched(*launches, targets=("sm_90",)):
    """What ``launches`` (kernel, arguments, constants, default) would compile."""
    with kernel_figures.recorded(list(targets)) as recorder:
        for kernel, arguments, constants, recorder.default in launches:
            kernel[(1,)](*arguments, **constants)
    return list(recorder.launches.values())


def x(dtype=torch.float32):
    return torch.empty(64, dtype=dtype, device="meta")


def test_the_command_line_has_its_defaults():
    assert compile_kernels.parse([]).targets == list(compile_kernels.TARGETS)
    assert compile_kernels.parse(["--quick"]).targets == ["sm_90"]
    asked = compile_kernels.parse(["--quick", "--targets", "gfx942, sm_80", "--jobs", "3"])
    assert (asked.targets, asked.quick, asked.jobs) == (["gfx942", "sm_80"], True, 3)
    assert set(compile_kernels.TARGETS) == set(kernel_figures.TARGETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "sm_75"], "must be some of sm_80,sm_90,sm_100,gfx942, got 'sm_75'"),
        (["--targets", ","], "must be some of"),
        (["--jobs", "0"], "must be at least 1, got '0'"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        compile_kernels.main(arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in said
    assert said.count("\n") == 1


def test_a_launch_is_recorded_once_for_each_variant_and_not_carried_out():
    constants = {"N": 64, "TWICE": False, "num_warps": 2}
    found = launched(
        (tiny, (x(), x(), 64), constants, False),
        (tiny, (x(), x(), 60), constants, True),
        (tiny, (x(torch.float64), x(torch.float64), 64), constants, False),
        (tiny, (x(), x(), 64), {**constants, "TWICE": True}, False),
        targets=("sm_90", "gfx942"),
    )
    words = [(launch.variant, launch.default) for launch in found if launch.target == "gfx942"]
    assert words == [
        ("fp32 N=64 warps=2", True),
        ("fp64 N=64 warps=2", False),
        ("fp32 N=64 TWICE warps=2", False),
    ]
    assert len(found) == 6


def test_a_tensor_that_is_absent_makes_a_variant():
    found = launched(
        (with_room, (x(), x()), {"N": 8}, True), (with_room, (x(), None), {"N": 8}, True)
    )
    assert [launch.variant for launch in found] == [
        "fp32 N=8 warps=4",
        "fp32 N=8 warps=4 no:room",
    ]


def test_a_kernel_compiles_for_every_kind_of_target_and_its_figures_are_read():
    constants = {"N": 256, "TWICE": True, "num_warps": 2}
    found = launched((tiny, (x(), x(), 256), constants, True), targets=("sm_90", "gfx942"))
    for launch, figures in kernel_figures.compile_all(found, 1):
        assert not figures.failure
        assert figures.spills == 0
        assert figures.registers > 4, launch
        assert figures.shared > 0
        assert figures.barriers >= figures.loop[1] >= 1
        assert figures.instructions > figures.loop[0] > 5


def test_spills_are_seen_and_fail_where_usual_sizes_meet_them(capsys):
    constants = {"N": 16384, "num_warps": 1}
    usual, rare = ([x()], constants, True), ([x(torch.float64)], constants, False)
    found = launched((greedy, *usual), (greedy, *rare))
    problems = compile_kernels.show(kernel_figures.compile_all(found, 1), found)
    assert len(problems) == 1
    assert re.fullmatch(r"sm_90 greedy fp32 .* spills \d+ bytes a thread", problems[0])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_what_does_not_compile_is_a_problem_whoever_launches_it(capsys):
    found = launched((broken, [x()], {"N": 8}, False))
    (problem,) = compile_kernels.show(kernel_figures.compile_all(found, 1), found)
    assert "broken fp32 N=8 warps=4 does not compile: " in problem
    assert "does not compile" not in capsys.readouterr().out


def test_shared_memory_beyond_that_of_the_target_is_a_problem():
    found = launched((greedy, [x()], {"N": 8}, True))
    figures = kernel_figures.Figures(registers=9, shared=228 * 1024)
    (problem,) = compile_kernels.show([(found[0], figures)], found)
    assert problem.endswith("needs 233472 bytes of shared memory")


LISTING = """
.text.f:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_0:
        /*0020*/              @!P0 LDG.E R4, [R2.64] ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
        /*0040*/                   BAR.SYNC 0x0 ;
        /*0050*/              @!P6 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
        /*0070*/                   NOP ;
"""


def test_instructions_and_barriers_are_counted_in_all_and_in_the_longest_loop():
    pattern = kernel_figures._INSTRUCTION
    found = kernel_figures.count(LISTING, pattern, lambda name: name.startswith("BAR"))
    assert (found.instructions, found.barriers, found.loop) == (7, 2, (5, 2))


def test_without_triton_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "kernel_calls", None)
    assert compile_kernels.main(["--quick"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("compile_kernels.py: needs Triton 3.6 or newer")
    assert said.count("\n") == 1
