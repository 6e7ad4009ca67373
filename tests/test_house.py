"""The house keeps its own rules: floors, sizes, numerics and safety; and each rule bites."""

from pathlib import Path

import house_rules as rules
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / rules.PACKAGE


def python_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))


def misfits_of(checker, folder: Path) -> str:
    found = [
        line for path in python_files(folder) for line in checker((folder / path).read_text(), path)
    ]
    return "\n".join(found)


def test_imports_come_from_lower_floors():
    assert not misfits_of(rules.floor_misfits, PACKAGE)


def test_files_functions_and_kernels_keep_the_size_limits():
    assert not misfits_of(rules.size_misfits, PACKAGE)


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples", "scripts"])
def test_files_outside_the_package_keep_the_size_limit(folder):
    assert not misfits_of(rules.file_misfits, ROOT / folder)


def test_no_stand_in_for_infinity_no_assert_no_code_from_files():
    assert not misfits_of(rules.source_misfits, PACKAGE)


def test_the_checks_see_the_package():
    assert {"__init__.py", "errors.py", "segments.py"} <= set(python_files(PACKAGE))


@pytest.mark.parametrize("table", [rules.PARAMETERS_ALLOWED, rules.LITERALS_ALLOWED])
def test_every_exception_states_its_reason(table):
    assert all(reason for entries in table.values() for reason in entries.values())


# Each rule bites

P = "torch_semimarkov"
BAD_IMPORTS = {
    "a higher floor": ("functional/inference.py", f"from {P}.nn import heads"),
    "the same floor": ("scan/linear.py", f"from {P}.ssm.layer import Layer"),
    "inside a function": ("errors.py", f"def f():\n    from {P}.semirings import Log"),
    "relative": ("semirings/log.py", "from ..functional import viterbi"),
    "relative, a submodule": ("semirings/log.py", "from .. import functional"),
    "plain import": ("functional/edges.py", f"import {P}.cli.main"),
    "another backend": ("backends/cpu/kernels.py", f"from {P}.backends.reference import forward"),
    "another backend, as a name": ("backends/cpu/kernels.py", "from .. import reference"),
    "a backend imports dispatch": ("backends/triton/op.py", f"from {P}.dispatch import registry"),
    "dispatch imports a backend": ("dispatch/select.py", f"import {P}.backends.cpu"),
    "functional imports a backend": ("functional/x.py", f"from {P}.backends.cpu import scan"),
    "by name, upwards": ("dispatch/x.py", f'importlib.import_module("{P}.functional")'),
    "nn imports a side room": ("nn/head.py", f"from {P}.metrics.f1 import f1"),
    "one side room another": ("plots/posterior.py", f"from {P}.data.npz import read"),
    "a side room the kernels": ("plots/posterior.py", f"from {P}.functional import marginals"),
    "training imports cli": ("training/loop.py", f"from {P}.cli import main"),
    "a name of the root": ("cli/demo.py", f"from {P} import SemiMarkovCRFHead"),
    "the root": ("cli/demo.py", f"import {P}"),
    "eager root": ("__init__.py", f"from {P}.functional import viterbi"),
    "eager root, relative": (
        "__init__.py",
        "try:\n    from . import functional\nfinally:\n    pass",
    ),
    "an unknown room": ("attic/box.py", "import os"),
}
GOOD_IMPORTS = {
    "a lower floor": ("functional/inference.py", f"from {P}.dispatch import call"),
    "floor 0 is one room": ("segments.py", f"from {P}.errors import ShapeError"),
    "its own room": ("nn/head.py", "from .encoders import Encoder"),
    "its own room, by dot": ("nn/__init__.py", "from . import encoders"),
    "a backend its own": ("backends/cpu/op.py", f"from {P}.backends.cpu.kernels import scan"),
    "a backend a semiring": ("backends/cpu/op.py", f"from {P}.semirings import LogSemiring"),
    "dispatch by name": ("dispatch/registry.py", f'importlib.import_module("{P}.backends.cpu")'),
    "cli a side room": ("cli/demo.py", f"from {P}.plots.posterior import draw"),
    "training a side room": ("training/loop.py", f"from {P}.metrics import f1"),
    "a side room floor 0": ("data/npz.py", f"from {P}.segments import Segments"),
    "the version": ("cli/info.py", f"from {P} import __version__"),
    "lazy root": ("__init__.py", f'def __getattr__(n):\n    return import_module("{P}.nn")'),
    "root, for types": ("__init__.py", f"if TYPE_CHECKING:\n    from {P}.nn import Head"),
    "others": ("plots/posterior.py", "import matplotlib.pyplot as plt"),
}


@pytest.mark.parametrize(("path", "source"), BAD_IMPORTS.values(), ids=BAD_IMPORTS)
def test_the_floors_bite(path, source):
    assert len(rules.floor_misfits(source, path)) == 1


@pytest.mark.parametrize(("path", "source"), GOOD_IMPORTS.values(), ids=GOOD_IMPORTS)
def test_the_floors_let_pass(path, source):
    assert rules.floor_misfits(source, path) == []


def function_of(lines: int, head: str = "def f():") -> str:
    return "\n".join([head, '    """Say.\n\n    More.\n    """', *["    x = 1"] * (lines - 1), ""])


def flat(count: int) -> str:
    return ", ".join(f"a{i}" for i in range(count))


NESTED = "def f():\n    for a in b:\n        if a:\n            with a:\n                try:\n"
BAD_SIZES = {
    "a long file": "x = 1\n" * 401,
    "a long function": function_of(61),
    "a long method": "class A:\n"
    + function_of(61).replace("\n", "\n    ").replace("def", "    def"),
    "a long kernel": function_of(151, "@triton.jit\ndef f():"),
    "deep nesting": NESTED + "                    while a:\n                        a()\n"
    "                finally:\n                    pass\n",
    "many parameters": "def f(a, b, c, d, e, f, g, h, i):\n    pass\n",
    "many kernel parameters": f"@njit(cache=True)\ndef f({flat(21)}): 0\n",
    "many op parameters": f"@torch.library.custom_op('x::f')\ndef f({flat(21)}): 0\n",
    "a stride of a kernel": "@triton.jit\ndef f(p_x, stride_b, C): 0\n",
    "an op is no kernel": function_of(61, "@torch.library.custom_op('x::f')\ndef f():"),
}
GOOD_SIZES = {
    "a file at the limit": "x = 1\n" * 400,
    "a function at the limit": function_of(60),
    "comments and blanks": function_of(60) + "    # why\n\n" * 9,
    "a kernel at the limit": function_of(150, "@triton.jit\ndef f():"),
    "four levels": NESTED
    + "                    a()\n                finally:\n                    pass\n",
    "a chain of elif": "def f():\n    if a:\n        0\n" + "    elif a:\n        0\n" * 9,
    "an op at the limit": f"@torch.library.custom_op('x::f')\ndef f({flat(20)}): 0\n",
    "keywords only": "def f(a, *, b, c, d, e, f, g, h, i, j):\n    pass\n",
    "a stride elsewhere": "def f(x, stride): 0\n",
    "self is not counted": "class A:\n    def f(self, a, b, c, d, e, f, g, h):\n        pass\n",
}


@pytest.mark.parametrize("source", BAD_SIZES.values(), ids=BAD_SIZES)
def test_the_size_limits_bite(source):
    assert len(rules.size_misfits(source, "nn/x.py")) == 1


@pytest.mark.parametrize("source", GOOD_SIZES.values(), ids=GOOD_SIZES)
def test_the_size_limits_let_pass(source):
    assert rules.size_misfits(source, "nn/x.py") == []


def test_an_allowed_signature_is_allowed_in_its_own_file_only():
    source = f"def semi_crf_streaming_forward({flat(11)}): 0\n"
    assert rules.size_misfits(source, "streaming.py") == []
    assert len(rules.size_misfits(source, "nn/x.py")) == 1


BAD_SOURCE = [
    "x = -1e9",
    "x = 1e30",
    "x = (1 - mask) * -100000",
    "x = float('-1e9')",
    "x = torch.finfo(x.dtype).min",
    "x = numpy.finfo(float).max",
    "x = sys.float_info.max",
    "assert x",
    "def f():\n    assert x, 'why'",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "numpy.load(path, allow_pickle=True)",
    "import pickle",
    "def f():\n    from pickle import loads",
    "@njit(fastmath=True)\ndef f(): 0",
    "tl.atomic_add(p_x + o, b_x)",
]
GOOD_SOURCE = [
    "x = float('-inf')",
    "x = -torch.inf",
    "x = -100",
    "x = 1e-30",
    "gigabytes = size / 1e9",
    "x = 2**63 - 1",
    "'assert -1e9'  # assert",
    "torch.load(path, weights_only=True)",
    "numpy.load(path, allow_pickle=False)",
    "@njit(fastmath=False)\ndef f(): 0",
]


@pytest.mark.parametrize("source", BAD_SOURCE)
def test_the_source_rules_bite(source):
    assert rules.source_misfits(source, "nn/x.py")


@pytest.mark.parametrize("source", GOOD_SOURCE)
def test_the_source_rules_let_pass(source):
    assert rules.source_misfits(source, "nn/x.py") == []
