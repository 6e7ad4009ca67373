"""Genes of a new genome by a model trained on another, beside Prodigal on the same file.

    python genomes.py --genome k12.fna.gz --annotation k12.gff.gz --new o157.gbk --output runs/coli

Needs torch_semimarkov[genomics,plots]; Prodigal (Debian's package ``prodigal``) if it is there.
Writes the model, every annotation, table.json and genomes.png to the output folder.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.patches import Patch, Polygon

from torch_semimarkov import functional, genes, metrics, plots
from torch_semimarkov.data import atomic_write
from torch_semimarkov.errors import ConfigError, SemiMarkovError
from torch_semimarkov.genes.genome import BASES, Contig
from torch_semimarkov.genes.states import FRAMES, KIND_OF, KINDS

COLOURS = {"+": "#0072B2", "-": "#D55E00"}
SIGNS = {"+": 1, "-": -1}
WIDTH, STEP = 12000, 500  # bases that are shown, and between the stretches to choose from
BESIDE = 30000  # bases on either side of them that the probability is computed with
HEAD = 120  # bases of an arrow's head
COSTS = ("seconds", "CPU s", "peak MiB")
OURS = [sys.executable, "-m", "torch_semimarkov.cli", "genes"]


# Runs


# A process inherits the peak memory of the one that starts it, so a small one in between starts it.
STARTER = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
spent = time.perf_counter() - began
print(json.dumps([spent, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def measured(command):
    """Run a command; wall-clock seconds, CPU seconds, and peak memory in MiB.

    Raises:
        ConfigError: it failed; its last line of error output.
    """
    words = [sys.executable, "-S", "-c", STARTER, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ConfigError(f"{command[0]} failed: {said[-1] if said else ''}")
    return tuple(json.loads(done.stdout))


def write_fasta(path, contigs):
    """Plain FASTA, which Prodigal reads."""
    letters = np.array([*BASES, "N"])
    with atomic_write(path) as file:
        for contig in contigs:
            text = "".join(letters[contig.codes])
            lines = [text[i : i + 80] for i in range(0, len(text), 80)]
            file.write("\n".join([f">{contig.name}", *lines, ""]))


def row_of(name, gold, found, cost):
    """A row of the table, in percent, seconds and MiB.

    Args:
        name: of the annotator.
        gold, found: genes.
        cost: from :func:`measured`.
    """
    rates = genes.agreement(gold, found).rows()
    stop, exact = rates["stop codon"], rates["exact gene"]
    return {
        "annotator": name, "genes": len(found), "found %": 100 * stop[0],
        "precision %": 100 * stop[1], "exact %": 100 * exact[0],
        "exact precision %": 100 * exact[1], **dict(zip(COSTS, cost, strict=True)),
    }  # fmt: skip


def train(args, model):
    """Train a model into a folder; what it cost."""
    training = ["--annotation", args.annotation] if args.annotation else []
    cost = measured(
        [*OURS, "train", "--genome", args.genome, *training, "--epochs", str(args.epochs),
         "-o", model, "--overwrite", "--quiet"]
    )  # fmt: skip
    print(f"training: {cost[0]:.0f} s, {cost[1]:.0f} s of CPU, {cost[2]:.0f} MiB", flush=True)
    return dict(zip(COSTS, cost, strict=True))


def compare(args):
    """Train, annotate with each program, and write what came out."""
    contigs = genes.read_contigs(args.new)
    gold = genes.read_genes(args.new_annotation or args.new, contigs).genes
    args.output.mkdir(parents=True, exist_ok=True)
    model, fasta = args.model or args.output / "model", args.output / "new.fna"
    write_fasta(fasta, contigs)
    training = None if args.model else train(args, model)
    annotate = [*OURS, "annotate", model, "--genome", fasta, "--quiet"]
    calls = {
        "torch_semimarkov": [*annotate, "-o"],
        "without posterior": [*annotate, "--no-posterior", "-o"],
    }
    if shutil.which(args.prodigal):
        calls["Prodigal"] = [args.prodigal, "-q", "-i", fasta, "-f", "gff", "-o"]
    else:
        print(f"no {args.prodigal} here: its row is left out", file=sys.stderr)
    rows, found = [], {}
    for name, call in calls.items():
        output = args.output / f"{name.split()[0].lower()}.gff3"
        cost = measured([*call, output])
        found[name] = genes.read_genes(output, contigs).genes
        rows.append(row_of(name, gold, found[name], cost))
    with atomic_write(args.output / "table.json") as file:
        json.dump({"annotated": len(gold), "training": training, "runs": rows}, file, indent=1)
    print(f"{len(gold)} annotated genes")
    print(metrics.format_table(rows, digits=1))
    del found["without posterior"]
    contig, first = most_different(contigs, [gold, *found.values()])
    last = min(first + WIDTH, contig.length)
    probability = coding_probability(genes.load_gene_model(model), contig, first, last)
    shown = {"annotated": gold, **found}
    figure = picture(contig, shown, probability, first, last)
    plots.save_figure(figure, args.output / "genomes.png")


# The picture


def most_different(contigs, annotations):
    """The contig and the first base of the stretch on which the fewest genes are agreed on."""
    sites = [{gene.stop_site for gene in one} for one in annotations]
    odd = set.union(*sites) - set.intersection(*sites)
    best = (-1, contigs[0], 0)
    for contig in contigs:
        places = np.sort([place for name, place, _ in odd if name == contig.name])
        first = np.arange(0, max(contig.length - WIDTH, 0) + 1, STEP)
        count = np.searchsorted(places, first + WIDTH) - np.searchsorted(places, first)
        i = int(count.argmax())
        if count[i] > best[0]:
            best = (count[i], contig, int(first[i]))
    return best[1:]


@torch.no_grad()
def coding_probability(model, contig, first, last):
    """(last - first, 2). Probability that a base is in a coding segment of each strand, + first."""
    begin = max(0, first - BESIDE) // FRAMES * FRAMES
    part = Contig(contig.name, contig.codes[begin : last + BESIDE])
    terms = model.terms(genes.GenomeInput.of(part, model.code))
    labels = functional.marginals(**terms).labels[0, first - begin : last - begin]
    kinds = np.array(KINDS)[KIND_OF]
    strands = [np.flatnonzero([k.startswith(s) for k in kinds]) for s in ("forward", "reverse")]
    # "stop" and "reverse stop" belong to their genes
    strands[0] = np.append(strands[0], np.flatnonzero(kinds == "stop"))
    return np.stack([labels[:, one].sum(1).numpy() for one in strands], 1)


def picture(contig, annotations, probability, first, last):
    """Genes of each annotation as arrows, a strand a side, above their probability.

    Args:
        contig: the sequence.
        annotations: name -> genes; the first is the reference.
        probability: from :func:`coding_probability`.
        first, last: the stretch, in bases.
    """
    from torch_semimarkov.plots._style import FONT_SIZE, dress, empty_figure

    figure = empty_figure(11, 1.6 + 1.05 * len(annotations) + 1.6)
    ratios = [1.05] * len(annotations) + [1.6]
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    known = {gene.stop_site for gene in next(iter(annotations.values()))}
    for axis, (name, found) in zip(axes, annotations.items(), strict=False):
        draw_genes(axis, [g for g in found if g.contig == contig.name], known, first, last)
        axis.set_ylabel(name.replace("_", "_\n"), rotation=0, ha="right", va="center")
        dress(axis)
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.tick_params(bottom=False)
    position = np.arange(first, last) / 1000
    for column, strand in enumerate("+-"):
        style = "-" if strand == "+" else "--"
        axes[-1].plot(position, probability[:, column], style, color=COLOURS[strand], linewidth=1.8)
    axes[-1].set_ylim(-0.03, 1.03)
    axes[-1].set_ylabel("P(coding)")
    axes[-1].set_xlim(first / 1000, last / 1000)
    axes[-1].set_xlabel(f"position on {contig.name} (kb)")
    dress(axes[-1])
    handles = [Patch(color=COLOURS[s], label=f"{'forward' if s == '+' else 'reverse'} strand")
               for s in "+-"]  # fmt: skip
    handles.append(Patch(facecolor="white", edgecolor="#333333", hatch="///",
                         label="stop codon not annotated"))  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False,
                  fontsize=FONT_SIZE - 1)  # fmt: skip
    return figure


def draw_genes(axis, found, known, first, last):
    """Arrows above the line for one strand and below it for the other."""
    axis.axhline(0, color="#333333", linewidth=0.8)
    for gene in found:
        if gene.end <= first or gene.start >= last:
            continue
        sign = SIGNS[gene.strand]
        tail, tip = (gene.start, gene.end)[::sign]
        neck = tip - sign * min(HEAD, gene.end - gene.start)
        low, high = sign * 0.12, sign * 0.88
        outline = [(tail, low), (neck, low), (tip, (low + high) / 2), (neck, high), (tail, high)]
        there = gene.stop_site in known
        look = {"facecolor": COLOURS[gene.strand]} if there else {"facecolor": "white"}
        axis.add_patch(
            Polygon(
                [(x / 1000, y) for x, y in outline], closed=True, linewidth=1.0,
                edgecolor="white" if there else COLOURS[gene.strand],
                hatch=None if there else "///", **look,
            )
        )  # fmt: skip
    axis.set_ylim(-1, 1)
    axis.set_yticks([0.5, -0.5], ["+", "\N{MINUS SIGN}"])
    axis.tick_params(left=False)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--genome", type=Path, help="to train on")
    source.add_argument("--model", type=Path, help="a trained one, instead")
    parser.add_argument("--annotation", type=Path, help="its GFF3, unless it is GenBank")
    parser.add_argument("--new", type=Path, required=True, help="to annotate")
    parser.add_argument("--new-annotation", type=Path, help="its GFF3, unless it is GenBank")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--prodigal", default="prodigal", help="the program")
    try:
        compare(parser.parse_args(arguments))
    except SemiMarkovError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
