"""Try an installed torch_semimarkov: results on each CPU backend, and each step of the commands.

    python -I scripts/smoke.py        # in an empty folder, where the package is installed

It needs nothing but the package and what that needs. scripts/check_release.py runs it in a fresh
environment; each line says what was tried, and the first thing that is wrong ends it with exit 1.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from itertools import groupby, pairwise, product
from pathlib import Path

import numpy as np
import torch

import torch_semimarkov as ts

BACKENDS = ("reference", "cpu")
HEAVY = {"click", "matplotlib", "numba", "pandas", "scipy", "sklearn", "triton", "wfdb"}
NEEDS = ("torch", "numpy", "numba", "scipy", "scikit-learn", "click", "safetensors", "tqdm")
MOST_SECONDS = 60


def main() -> int:
    heavy = sorted(HEAVY & set(sys.modules))
    require(not heavy, f"importing is light (loaded {heavy})")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in NEEDS)
    print(f"python {sys.version.split()[0]}, {versions}", flush=True)
    require(ts.__version__ == importlib.metadata.version("torch_semimarkov"), "one version")
    check_backends()
    check_training()
    check_commands(Path.cwd())
    return 0


def require(holds: bool, what: str) -> None:
    """Print what holds, or stop."""
    if not holds:
        sys.exit(f"smoke: failed: {what}")
    print(f"ok: {what}", flush=True)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def enumerated(scores: torch.Tensor, transition: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Log partition of one sequence (T, C): the sum over all labels, and all cuts of their runs."""
    (T, C), totals = scores.shape, []
    for labels, cuts in product(product(range(C), repeat=T), product((0, 1), repeat=T - 1)):
        pieces = list(zip(labels, (0, *np.cumsum(cuts).tolist()), strict=True))
        if any(
            pieces[i][1] == pieces[i + 1][1] and labels[i] != labels[i + 1] for i in range(T - 1)
        ):
            continue  # one segment with two labels
        segments = [(piece[0], len(list(group))) for piece, group in groupby(pieces)]
        if max(length for _, length in segments) > len(bias):
            continue
        total = sum(scores[t, c] for t, c in enumerate(labels))
        total = total + sum(bias[length - 1, c] for c, length in segments)
        pairs = pairwise(segments)
        totals.append(total + sum(transition[a, b] for (a, _), (b, _) in pairs))
    return torch.logsumexp(torch.stack(totals), 0)


def check_backends() -> None:
    """The value is that of enumeration, and gradients and paths of the backends are the same."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 5, 2), (2, 2), (3, 2))
    terms = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    right, answers = enumerated(terms[0][0], *terms[1:]), []
    for name in BACKENDS:
        require(name in ts.available_backends(), f"the {name} backend is there")
        leaves = [term.clone().requires_grad_() for term in terms]
        value = ts.log_partition(*leaves, backend=name)
        require(close(value[0], right), f"log_partition on {name} is that of enumeration")
        grads = torch.autograd.grad(value.sum(), leaves)
        answers.append((grads, ts.viterbi(*terms, backend=name)))
    (grads, best), (grads2, best2) = answers
    require(all(map(close, grads, grads2)), "the backends give one gradient")
    require(best.segments.to_list() == best2.segments.to_list(), "the backends give one path")


def check_training() -> None:
    """A head learns four positions."""
    torch.manual_seed(0)
    head = ts.SemiMarkovCRFHead(num_classes=2, max_duration=3, hidden_dim=4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    hidden, labels = torch.randn(1, 4, 4), torch.tensor([[0, 0, 1, 1]])
    for _ in range(60):
        loss = head.compute_loss(hidden, labels=labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = head.decode(hidden).segments.to_labels(4)
    require(loss.item() < 0.3 and torch.equal(found, labels), "a head learns")


def check_commands(folder: Path) -> None:
    """Train, predict, evaluate and benchmark, as from a shell."""
    require(ts.__version__ in command("--version"), "torch-semimarkov --version")
    write_data(folder / "data")
    tiny = ["--epochs", "2", "--num-layers", "1", "--hidden-dim", "8", "--threads", "1", "--quiet"]
    command("train", "data", "-o", "model", *tiny)
    require((folder / "model" / "model.safetensors").is_file(), "torch-semimarkov train")
    command("predict", "model", "data", "-o", "segments", "--quiet")
    require(
        len(list((folder / "segments").glob("*.segments.tsv"))) == 6, "torch-semimarkov predict"
    )
    require("F1" in command("evaluate", "data", "segments"), "torch-semimarkov evaluate")
    require("reference" in command("info"), "torch-semimarkov info")
    missing = command("predict", "model", "no-such-file", "-o", "segments", code=2)
    require("no-such-file" in missing, "a file that is not there is named, with exit code 2")
    start = time.perf_counter()
    table = command("benchmark")
    seconds = time.perf_counter() - start
    print(table, flush=True)
    require(
        "times" in table and seconds < MOST_SECONDS, f"torch-semimarkov benchmark ({seconds:.0f} s)"
    )


def command(*arguments: str, code: int = 0) -> str:
    """What a call of the installed command prints."""
    script = Path(sys.executable).with_name("torch-semimarkov")
    done = subprocess.run([script, *arguments], capture_output=True, text=True)
    if done.returncode != code:
        print(done.stdout + done.stderr)
        sys.exit(f"smoke: failed: {' '.join(arguments)}: exit {done.returncode}, expected {code}")
    return done.stdout + done.stderr


def write_data(folder: Path) -> None:
    """Six sequences of two features, with labels in runs of four."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(6):
        labels = np.repeat(generator.permutation([0, 1, 2, 0, 1, 2]), 4)
        noise = generator.normal(0, 0.3, (labels.size, 2))
        features = np.stack([labels == 1, labels == 2], 1) + noise
        np.savez(folder / f"{i}.npz", features=features.astype("float32"), labels=labels)


if __name__ == "__main__":
    sys.exit(main())
