"""``torch-semimarkov evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torch_semimarkov.cli.options import PATH, READING, decoding_option, settings


@click.command()
@click.argument("true", type=PATH)
@click.argument("predicted", type=PATH, required=False)
@click.option("--model", type=PATH, help="Judge this model on TRUE, instead of PREDICTED.")
@click.option(
    "--output", "-o", type=PATH, help="Write every number to this file, such as metrics.json."
)
@click.option(
    "--tolerance", "tolerances", type=click.FloatRange(min=0), multiple=True,
    help="Largest distance of a matched boundary; may be given more than once.  [default: 0]",
)  # fmt: skip
@click.option(
    "--unit", type=click.Choice(("ms", "s", "positions")),
    help="Unit of tolerances and errors.  [default: ms with a sample rate, else positions]",
)  # fmt: skip
@click.option(
    "--iou", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True,
    help="Overlap, as intersection over union, from which segments match.",
)  # fmt: skip
@click.option("--include-edges", is_flag=True, help="Also judge the two ends of a sequence.")
@decoding_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@settings(*READING, defaults=False)
def command(
    true: Path,
    predicted: Path | None,
    *,
    model: Path | None,
    output: Path | None,
    tolerances: tuple[float, ...],
    unit: str | None,
    iou: float,
    include_edges: bool,
    decoding: str,
    device: str,
    **given: Any,
) -> None:
    """Judge predicted segments, or a model, by the true segments.

    TRUE and PREDICTED are files or folders: tables of segments as "predict" writes them (TSV, CSV,
    JSON), or labelled data as "train" reads them. Sequences are matched by name. With --model the
    model segments TRUE, which must then be labelled data.

    Printed are a table of segments, a table of boundaries, position accuracy and the edit rate of
    the label sequence (edits per true segment). An undefined number is a "-".

    \b
    Examples:
      torch-semimarkov evaluate recordings/ segments/ --tolerance 20 --tolerance 150
      torch-semimarkov evaluate test.npz --model runs/first -o metrics.json
    """
    from torch_semimarkov.cli.run_evaluate import EvaluateCall, run_evaluate

    how = {
        "tolerance": tolerances or (0.0,),
        "unit": unit,
        "iou": iou,
        "include_edges": include_edges,
    }
    run_evaluate(EvaluateCall(true, predicted, model, output, device, decoding, given, how))
