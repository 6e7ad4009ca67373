"""What ``test_fused_scan_triton.py`` runs in processes of its own."""

import itertools
import json
import os
import tempfile
import warnings
from pathlib import Path

import torch
import triton
from scan_cases import edge_of, make
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torch_semimarkov.backends.triton import scan_kernels, scan_linear, scan_tiles, scan_tuning
from torch_semimarkov.backends.triton import scans as backend
from torch_semimarkov.scan import fused_associative_scan, linear_scan

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2**-7}
SHAPES = [((2, 9, 6), 1), ((2, 19), 1), ((1, 1), 1)]


def small_tiles(block=4, columns=4):
    """Let small inputs have several blocks, and blocks of them several tiles of totals."""
    scan_tiles._ONE_PROGRAM = 1
    for arch, (beside, along) in scan_tiles._TABLE.items():
        row = beside._replace(block=block, columns=columns), along._replace(block=block)
        scan_tiles._TABLE[arch] = row
    few = backend._few
    backend._few = lambda sizes, tile: {**few(sizes, tile), "BLOCK": 2}


def agree(found, truth, dtype):
    """Fail unless both are the same to the rounding of their type."""
    for value, other in zip(found, truth, strict=True):
        bound = TOLERANCE.get(dtype, 0.0)
        torch.testing.assert_close(value, other, rtol=bound, atol=bound, equal_nan=True)


def associative(op):
    """Every flag of an op, in blocks of four positions."""
    small_tiles()
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.int32]
    calls = 0
    for dtype, (shape, dim) in itertools.product(dtypes, SHAPES):
        if dtype == torch.int32 and op == "logaddexp":
            continue
        # All flags in float32, the two extremes in the other types.
        flags = itertools.product([False, True], repeat=4)
        if dtype != torch.float32:
            flags = [(False,) * 4, (True,) * 4]
        for reverse, exclusive, ragged, start in flags:
            x = make(shape, dtype, op)
            if op in ("max", "min") and dtype.is_floating_point:
                x[0, shape[1] // 2] = torch.nan
            options = {"op": op, "exclusive": exclusive, "return_final": True}
            options["lengths"] = torch.tensor([shape[1] - 1, 2])[: shape[0]] if ragged else None
            options["initial"] = edge_of(shape, dim, dtype) if start else None
            found, truth = (
                fused_associative_scan(x, dim, reverse, **options, backend=name)
                for name in ("triton", "reference")
            )
            agree(found, truth, dtype)
            calls += 1
    x = make((2, 9, 3), torch.complex64)
    if op == "add":
        agree([fused_associative_scan(x, 1, backend="triton")], [x.cumsum(1)], torch.float32)
    print(calls, "calls agree")


def linear():
    """Every flag of the linear scan, with its gradient: the shifted kernel run the other way."""
    small_tiles()
    calls = 0
    for dtype, (shape, dim) in itertools.product((torch.float32, torch.float64), SHAPES):
        for reverse, ragged, start in itertools.product([False, True], repeat=3):
            gates, inputs = make(shape, dtype, "mul"), make(shape, dtype, seed=2)
            options = {"return_final": True}
            options["lengths"] = torch.tensor([shape[1] - 1, 2])[: shape[0]] if ragged else None
            options["initial"] = edge_of(shape, dim, dtype) if start else None
            results = []
            for name in ("triton", "reference"):
                pair = gates.clone().requires_grad_(), inputs.clone().requires_grad_()
                y, final = linear_scan(*pair, dim, reverse, **options, backend=name)
                grads = torch.autograd.grad(y.square().sum() + final.sum(), pair)
                results.append((y, final, *grads))
            agree(*results, dtype) if dtype == torch.float64 else agree_roughly(*results)
            calls += 1
    print(calls, "calls agree")


def agree_roughly(found, truth):
    """Gradients of float32 carry the rounding of some steps."""
    for value, other in zip(found, truth, strict=True):
        torch.testing.assert_close(value, other, rtol=2e-5, atol=2e-5)


def long_sum():
    """Many equal terms, whose rounding does not cancel, in the usual tiles."""
    x = torch.full((100_000,), 0.1)
    found = fused_associative_scan(x, 0, backend="triton")
    again = fused_associative_scan(x, 0, backend="triton")
    truth = x.double().cumsum(0)
    error = ((found.double() - truth).abs() / truth).max()
    if not (error <= 1e-6 and torch.equal(found, again)):
        raise SystemExit(f"error {error:.1e}")
    print(f"error {error:.1e}, within 1e-6, and the same bits twice")


def tuning():
    """The switch times every candidate, takes the fastest, and keeps it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.json"
        os.environ[scan_tuning.SWITCH], os.environ[scan_tuning.FILE] = "1", str(path)
        times = iter([3.0, 1.0, *[2.0] * 20])
        asked = []
        scan_tuning.seconds = lambda run: asked.append(run) or next(times)
        x = torch.zeros(1, 100_000, 1)
        tiles = scan_tiles.candidates("sm_80", 100_000, 1, 4)
        found = scan_tuning.tile_for(lambda tile: None, "add", x)
        kept = list(json.loads(path.read_text()).values())
        scan_tuning._found.clear()
        again = scan_tuning.tile_for(lambda tile: None, "add", x)
        right = found == tiles[1] == again and kept == [list(tiles[1])]
        if not (right and len(asked) == len(tiles)):
            raise SystemExit(f"{found}, {kept}, {len(asked)} times")
    print("the fastest tile is kept")


class Recorder:
    """Stands in for a kernel: compiles what it is launched with, for a target."""

    def __init__(self, kernel, target):
        self.kernel, self.target, self.count = kernel, target, 0

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps, **options):
        names = self.kernel.arg_names
        signature, constants = {}, dict(options)
        for name, value in zip(names, arguments, strict=False):
            if isinstance(value, torch.Tensor):
                kinds = {"float32": "fp32", "float64": "fp64", "bfloat16": "bf16"}
                kind = str(value.dtype)[6:]
                signature[name] = "*" + kinds.get(kind, kind.replace("int", "i"))
            elif value is None:
                constants[name] = None
            else:
                signature[name] = "i64"
        signature.update(dict.fromkeys(constants, "constexpr"))
        ordered = {name: signature[name] for name in names}
        places = {(names.index(name),): value for name, value in constants.items()}
        source = ASTSource(self.kernel, ordered, places)
        triton.compile(source, target=self.target, options={"num_warps": num_warps})
        self.count += 1


def compile_all(name):
    """Every kernel in every op and type, as the host code launches it for the target."""
    warnings.simplefilter("ignore")
    recorders = []
    for module in (scan_kernels, scan_linear):
        for kernel in list(vars(module)):
            function = getattr(module, kernel)
            if isinstance(function, triton.JITFunction) and kernel in KERNELS:
                recorders.append(Recorder(function, TARGETS[name]))
                setattr(module, kernel, recorders[-1])
    scan_tuning.architecture = lambda device: name
    for shape, dtype in (((2, 3000, 64), torch.float32), ((2, 9000, 1), torch.bfloat16)):
        x = torch.zeros(shape, dtype=dtype)
        for op in ("add", "mul", "max", "min", "logaddexp"):
            backend.associative_scan(x, op, False, op == "add", None, None)
        backend.associative_scan(x, "add", True, False, None, torch.tensor([1, 2]))
        backend.linear_scan(x, x, False, False, None, None)
        backend.linear_scan(x, x, True, True, None, torch.tensor([1, 2]))
    backend.associative_scan(torch.zeros(1, 20_000, 1), "add", False, False, None, None)
    x = torch.zeros(2, 3000, 64, dtype=torch.float64)
    backend.associative_scan(x, "add", False, False, None, None)
    backend.linear_scan(x, x, False, False, None, None)
    backend.associative_scan(x.long(), "max", False, False, None, None)
    if len(recorders) != len(KERNELS) or not all(recorder.count for recorder in recorders):
        raise SystemExit("a kernel was not compiled")
    print(sum(recorder.count for recorder in recorders), "kernels compiled for", name)


KERNELS = (
    "block_totals", "scan_totals", "apply_blocks", "linear_totals", "scan_linear_totals",
    "apply_linear",
)  # fmt: skip
