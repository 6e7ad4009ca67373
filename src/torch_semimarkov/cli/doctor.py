"""``torch-semimarkov doctor``."""

from __future__ import annotations

from pathlib import Path

import click

from torch_semimarkov.cli.options import PATH

DIFFERS = 1


@click.command(short_help="Replay a failed batch on every backend.")
@click.argument("batch", type=PATH)
def command(batch: Path) -> None:
    """Replay a failed batch on every backend, and say which tensor is the first that differs.

    BATCH is the failed_batch.safetensors that "train" writes when it meets NaN or Inf, or a file of
    torch_semimarkov.training.save_batch. NaN and Inf in it are named with sequence, position and
    label. Without any, log partition, gradients and best scores of each backend in float64 and
    float32 are compared with the reference in float64. Exit code 1 says that something differs.

    \b
    Example:
      torch-semimarkov doctor runs/first/failed_batch.safetensors
    """
    from torch_semimarkov.training.doctor import examine, load_batch

    findings = examine(load_batch(batch))
    for found in findings:
        verdict = found.problem or (f"cannot run: {found.skipped}" if found.skipped else "agrees")
        click.echo(f"{found.backend:<10} {found.dtype:<8} {verdict}")
        if found.cause:
            click.echo(f"{'':<19} likely cause: {found.cause}")
    if any(found.problem for found in findings):
        raise click.exceptions.Exit(DIFFERS)
