"""The first call: one line of log, a cache that is never stale, no numba, forked workers."""

import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys

import pytest
import torch
from factory import SIZES, make_inputs
from torch.utils.data import DataLoader, Dataset

from torch_semimarkov.collector import paused_collector
from torch_semimarkov.functional import viterbi

numba = pytest.importorskip("numba")
cpu = importlib.import_module("torch_semimarkov.backends.cpu")
compile_module = importlib.import_module("torch_semimarkov.backends.cpu.compile")

# A kernel of three lines stands in for the real ones, which take long to compile.
KERNEL = """
from torch_semimarkov.backends.cpu.compile import compiled

@compiled
def {name}(x):
    return x + {constant}
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Function that writes a small kernel to a file and returns it, as a new process would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compile_module, "_announced", [])

    def make(name="kernel_of_a_test", constant=1, module="kernels_of_a_test"):
        (tmp_path / f"{module}.py").write_text(KERNEL.format(name=name, constant=constant))
        sys.modules.pop(module, None)
        importlib.invalidate_caches()
        compile_module._announced.clear()
        return getattr(importlib.import_module(module), name)

    yield make
    sys.modules.pop("kernels_of_a_test", None)


@pytest.fixture
def nowhere_to_write(monkeypatch):
    """Numba finds no folder for its cache, as where all of them are read-only."""
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(numba.core.config, "CACHE_LOCATOR_CLASSES", "", raising=False)


def run_in_a_new_process(code, **environment):
    """Output and log of a call of the library in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout), done.stderr.splitlines()


# One log line, and only where something is compiled


def test_a_cold_compilation_is_one_line_of_log_and_a_warm_start_none(kernel, caplog):
    function = kernel()
    assert (function(1), function(1.5), function(2j)) == (2, 2.5, 1 + 2j)
    assert [record.name for record in caplog.records] == ["torch_semimarkov"]
    assert "compiling the CPU kernels" in caplog.text and "later runs load them" in caplog.text
    caplog.clear()
    again = kernel()
    assert again(1) == 2
    assert sum(again.stats.cache_hits.values()) == 1
    assert caplog.records == []


def test_nothing_is_logged_before_a_kernel_is_called(kernel, caplog):
    kernel()
    assert caplog.records == []


def test_the_line_reaches_a_user_who_set_up_no_logging(tmp_path):
    (tmp_path / "kernels_of_a_test.py").write_text(KERNEL.format(name="add", constant=1))
    code = "import kernels_of_a_test as k; print(k.add(1))"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    found = run_in_a_new_process(code, PYTHONPATH=path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert found[0] == 2
    assert len(found[1]) == 1 and "compiling the CPU kernels" in found[1][0]
    again = run_in_a_new_process(code, PYTHONPATH=path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert again == (2, [])


# Folders that cannot be written to, and files that cannot be read


def test_without_a_folder_for_the_cache_kernels_compile_all_the_same(
    kernel, nowhere_to_write, caplog
):
    function = kernel()
    assert function(1) == 2
    assert function._cache.cache_path is None
    assert len(caplog.records) == 1 and "set NUMBA_CACHE_DIR" in caplog.text


def test_a_folder_that_becomes_read_only_is_no_error(kernel, monkeypatch):
    function = kernel()

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(function._cache._files._impl.locator, "ensure_cache_path", refuse)
    assert function(1) == 2


def test_a_cache_folder_that_cannot_exist_is_no_error(tmp_path):
    (tmp_path / "kernels_of_a_test.py").write_text(KERNEL.format(name="add", constant=1))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    code = "import kernels_of_a_test as k; print(k.add(1))"
    assert run_in_a_new_process(code, PYTHONPATH=path, NUMBA_CACHE_DIR="/dev/null/no")[0] == 2


def test_a_damaged_cache_file_is_compiled_anew(kernel, tmp_path):
    folder = kernel()._cache.cache_path
    assert kernel()(1) == 2
    damaged = [file for file in os.listdir(folder) if file.startswith("kernels_of_a_test.")]
    for name in [name for name in damaged if name.endswith((".nbi", ".nbc"))]:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"no cache")
    assert kernel()(1) == 2


# What is compiled and loaded

PARTS = """
import numpy as np
from torch_semimarkov.backends.cpu.compile import compiled, part

@part
def filled(size, number):
    row = np.empty(size)
    for i in range(size):
        row[i] = number
    return row

@compiled
def total(size):
    return filled(size, 1)[0] + filled(3, 2)[0]
"""

CALL_PARTS = """
import gc, json, sys
import kernels_of_a_test as k
found = [k.total(5)]
try:
    k.total(2**62)
except ValueError as error:
    found.append(type(error).__name__)
found += [len(k.filled.overloads), "numba.np.linalg" in sys.modules, gc.isenabled()]
print(json.dumps(found))
"""


def test_parts_are_compiled_once_for_all_numbers_and_a_warm_start_loads_the_kernel_alone(tmp_path):
    (tmp_path / "kernels_of_a_test.py").write_text(PARTS)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    folders = {"PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    cold, warm = (run_in_a_new_process(CALL_PARTS, **folders)[0] for _ in range(2))
    assert cold == [3.0, "ValueError", 1, True, True]
    assert warm == [3.0, "ValueError", 0, False, True]


def test_the_collector_goes_on_after_an_error_and_stays_off_if_it_was():
    with pytest.raises(KeyError), paused_collector():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


# The cache follows every source


def test_code_of_other_sources_is_never_loaded(kernel, monkeypatch, caplog):
    assert kernel()(1) == 2
    monkeypatch.setattr(compile_module, "stamp", lambda: ("another", "version", "of them"))
    caplog.clear()
    again = kernel()
    assert again(1) == 2
    assert sum(again.stats.cache_hits.values()) == 0
    assert len(caplog.records) == 1


def test_the_stamp_holds_versions_and_every_file_of_the_folder(monkeypatch, tmp_path):
    before = compile_module.stamp()
    assert before[:2] == (compile_module.__version__, compile_module.llvmlite.__version__)
    monkeypatch.setattr(compile_module.resources, "files", lambda _: tmp_path)
    stamps = []
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("notes.txt", "3")):
        (tmp_path / name).write_text(text)
        stamps.append(compile_module.stamp.__wrapped__())
    assert len({*stamps, before}) == 4 and stamps[-1] == stamps[-2]


# Without numba

WITHOUT_NUMBA = """
import json, sys
sys.modules["numba"] = None
import torch
import torch_semimarkov as ts
call = torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1)
values = [float(ts.log_partition(*call)) for _ in range(3)]
found = ts.explain(*call)
print(json.dumps([values[0], found.chosen, found.reasons["cpu"], str(found)]))
"""


def test_without_numba_the_reference_runs_and_one_line_says_what_is_missing():
    (value, chosen, reasons, table), log = run_in_a_new_process(WITHOUT_NUMBA)
    assert value == pytest.approx(0.6931, abs=1e-4)
    assert chosen == "reference"
    assert "numba" in reasons[0] and reasons[0] in table
    assert len(log) == 1 and "pip install numba" in log[0]


IMPORT_FUNCTIONS = """
import json, sys
import torch
import torch_semimarkov
torch_semimarkov.log_partition
print(json.dumps(sorted({name.split(".")[1] for name in sys.modules if name[:7] == "torch._"})))
"""


def test_the_functions_load_without_torchs_compiler():
    alone = "import json, sys, torch; print(json.dumps('torch._dynamo' in sys.modules))"
    if run_in_a_new_process(alone)[0]:
        pytest.skip("this torch loads its compiler itself")
    assert "_dynamo" not in run_in_a_new_process(IMPORT_FUNCTIONS)[0]


# Threads and processes


class Decoded(Dataset):
    """Decodes one batch an item, in whatever process asks for it."""

    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.set_num_threads(2)
        return viterbi(**self.inputs, backend="cpu").scores


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(cpu.threads, "_WORTH_THREADS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# Python 3.12 warns of every fork of a process with threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
# And torch, where the machine has fewer cores than workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_forked_workers_of_a_loader_decode_after_their_parent_used_its_threads(threads):
    inputs = make_inputs(SIZES[4])
    expected = viterbi(**inputs, backend="cpu").scores
    assert cpu.threads._pool.cache_info().currsize > 0
    # A worker that hangs is an error after the timeout, not a test that never ends.
    loader = DataLoader(
        Decoded(inputs), num_workers=2, batch_size=None, multiprocessing_context="fork", timeout=120
    )
    found = list(loader)
    assert len(found) == 4
    assert all(torch.equal(scores, expected) for scores in found)


def test_the_number_of_threads_is_that_of_torch(threads, monkeypatch):
    asked = []
    pool = cpu.threads._pool

    def spy(count, process):
        asked.append(count)
        return pool(count, process)

    monkeypatch.setattr(cpu.threads, "_pool", spy)
    inputs = make_inputs(SIZES[4])
    viterbi(**inputs, backend="cpu")
    torch.set_num_threads(3)
    viterbi(**inputs, backend="cpu")
    torch.set_num_threads(1)
    viterbi(**inputs, backend="cpu")
    assert asked == [2, 3]


def test_every_kernel_releases_the_interpreters_lock():
    names = [module.name for module in pkgutil.iter_modules(cpu.__path__, f"{cpu.__name__}.")]
    kernels = {
        kernel
        for name in names
        for kernel in vars(importlib.import_module(name)).values()
        if isinstance(kernel, numba.core.dispatcher.Dispatcher)
        if isinstance(kernel._cache, compile_module.KernelCache)
    }
    assert len(kernels) > 3
    assert all(kernel.targetoptions.get("nogil") for kernel in kernels)
