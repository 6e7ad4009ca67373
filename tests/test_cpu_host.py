"""Calls of the compiled CPU backend for tensors of a GPU, which it copies."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from factory import Size, make_inputs

from torch_semimarkov import dispatch
from torch_semimarkov.backends import cpu
from torch_semimarkov.backends.cpu import host
from torch_semimarkov.dispatch.queries import max_marginals, messages
from torch_semimarkov.functional import kbest, sample
from torch_semimarkov.potentials import Potentials

SIZE = Size((9, 5), K=4, C=3, padding=2)
PAGE = Path(__file__).parents[1] / "scripts" / "write_backends_page.py"
CALLS = {
    "kbest": lambda p: cpu.kbest(p, 3),
    "sample": lambda p: cpu.sample(p, 4, 5),
    "messages": cpu.messages,
    "max_marginals": cpu.max_marginals,
}


def ready(flags="start-end"):
    return Potentials(**make_inputs(SIZE, torch.float32, flags)).canonical()


@pytest.fixture(scope="module")
def on_a_gpu():
    """Potentials that have shapes and a device, and no memory."""
    spec = importlib.util.spec_from_file_location("write_backends_page", PAGE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.potentials(5, "cuda", False, False)


@pytest.mark.parametrize("op", CALLS)
def test_the_terms_come_to_memory_and_the_results_go_back(op):
    p, gpu = ready(), SimpleNamespace(type="cuda")
    wanted, went = CALLS[op](p), []

    def sent(results, device):
        went.append(device)
        return results

    pretence = mock.patch.object(host, "sent", sent)
    with pretence, mock.patch.object(Potentials, "device", gpu):
        found = CALLS[op](p)
    assert went == [gpu]
    assert all(map(torch.equal, found, wanted))


def test_the_copies_hold_every_term_and_no_graph():
    p = ready("boundary").map_terms(lambda x: x.clone().requires_grad_())
    copies = host.in_memory(p)
    assert not copies.requires_grad
    for mine, theirs in zip(p.fields(), copies.fields(), strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)


@pytest.mark.parametrize("op", CALLS)
def test_it_takes_tensors_of_a_gpu_and_of_no_other_device(op, on_a_gpu):
    assert host.takes(op, torch.device("cuda", 1))
    assert not host.takes(op, torch.device("meta"))
    semiring = "max" if op in ("kbest", "max_marginals") else "log"
    found = dispatch.explain_op(op, on_a_gpu, semiring, "cpu")
    assert found.chosen == "cpu"
    assert found.variant == "on copies in memory"


@pytest.mark.parametrize("op", ["log_partition", "tangent", "viterbi", "stream"])
def test_what_has_a_gradient_or_a_kernel_stays_where_its_tensors_are(op, on_a_gpu):
    reasons = cpu.reasons_against(op, on_a_gpu, "max" if op == "viterbi" else "log")
    assert reasons == ["needs CPU tensors, got cuda:0"]


@pytest.mark.gpu
@pytest.mark.parametrize("flags", ["start-end", "per-duration", "tail"])
def test_answers_on_a_gpu_are_those_of_the_same_numbers_in_memory(flags):
    here = make_inputs(SIZE, torch.float32, flags)
    there = {name: x.cuda() for name, x in here.items()}
    mine, theirs = kbest(**here, k=3), kbest(**there, k=3, backend="cpu")
    assert theirs.scores.device.type == theirs.segments.starts.device.type == "cuda"
    assert torch.equal(mine.scores, theirs.scores.cpu())
    assert mine.segments == theirs.segments.to("cpu")
    assert sample(**there, num_samples=2, backend="cpu").starts.device.type == "cuda"
    if flags != "per-duration":
        for ask in (messages, max_marginals):
            p = Potentials(**there).canonical()
            found, wanted = ask(p, "cpu"), ask(Potentials(**here).canonical(), "cpu")
            assert all(torch.equal(x.cpu(), y) for x, y in zip(found, wanted, strict=True))
