"""``torch-semimarkov info``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import click

PACKAGES = ("torch", "numpy", "numba", "triton", "safetensors", "wfdb", "matplotlib")


@click.command(short_help="Versions, devices, and why which backend runs.")
def command() -> None:
    """Versions, devices, threads, and which backend would run what, and why not the others.

    The table of backends is the answer for a small example in float32 on each device that is here.
    Put it into a bug report.
    """
    for name, text in (*_versions(), *_machine()):
        click.echo(f"{name:<18}{text}")
    for device in _devices():
        for op in ("log_partition", "viterbi"):
            click.echo("")
            click.echo(_explained(device, op))


def _versions() -> list[tuple[str, str]]:
    from torch_semimarkov import __version__

    rows = [("torch_semimarkov", __version__), ("python", platform.python_version())]
    for name in PACKAGES:
        found = importlib.util.find_spec(name) is not None
        rows.append((name, _version(name) if found else "not installed"))
    return rows


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "installed, of unknown version"


def _machine() -> list[tuple[str, str]]:
    import torch

    rows = [
        ("platform", platform.platform()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"),
        ("cuda", torch.version.cuda or torch.version.hip or "torch is built without it"),
    ]
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        memory = p.total_memory / 2**30
        text = f"{p.name}, {memory:.0f} GiB, compute capability {p.major}.{p.minor}"
        rows.append((f"cuda:{i}", text))
    return rows


def _devices() -> list[str]:
    import torch

    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def _explained(device: str, op: str) -> str:
    import torch

    from torch_semimarkov.functional import explain

    B, T, K, C = 2, 64, 8, 4
    zeros = [torch.zeros(shape, device=device) for shape in ((B, T, C), (C, C), (K, C))]
    semiring = "max" if op == "viterbi" else "log"
    return str(explain(*zeros, semiring=semiring, op=op))
