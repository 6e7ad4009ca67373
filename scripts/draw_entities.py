"""Train examples/token_classification.py and draw docs/images/entities.png: one new sentence.

    python scripts/draw_entities.py [--steps 200] [--output entities.png]

Needs matplotlib (the ``dev`` extra), and no seqeval.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from token_classification import LABELS, WORDS, TokenClassifier, batch_of

ROOT = Path(__file__).parents[1]
COLOURS = {"O": "#EEEEEE", "PER": "#56B4E9", "LOC": "#E69F00"}
TEXT = 12


def trained(steps: int) -> TokenClassifier:
    """The example's model after so many steps, as the example trains it."""
    torch.manual_seed(0)
    rng, model = random.Random(0), TokenClassifier(len(WORDS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(steps):
        model.zero_grad()
        model(**batch_of(rng, 16)).loss.backward()
        optimizer.step()
    return model.eval()


def posterior_of(model: TokenClassifier, ids: torch.Tensor) -> torch.Tensor:
    """(T, C). Probability of each label at each word of one sentence."""
    caught: list[torch.Tensor] = []
    hook = model.encoder.register_forward_hook(lambda module, inputs, output: caught.append(output))
    with torch.no_grad():
        model(ids[None], torch.ones_like(ids)[None])
        hook.remove()
        return model.head.marginals(caught[0]).labels[0]


def picture(
    ids: torch.Tensor, true: list[int], found: list[int], posterior: torch.Tensor
) -> Figure:
    """Words, true labels, found labels, and the posterior, above each other."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    strips, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.6))
    for row, labels in enumerate((true, found)):
        for t, label in enumerate(labels):
            name = LABELS[label]
            strips.barh(
                -row, 1, 0.8, t - 0.5, color=COLOURS[name.split("-")[-1]], edgecolor="white"
            )
            strips.text(t, -row, name, ha="center", va="center", fontsize=TEXT)
    strips.set_yticks([0, -1], ["true", "found"], fontsize=TEXT)
    image = below.imshow(posterior.T.numpy(), aspect="auto", cmap="cividis", vmin=0, vmax=1)
    below.set_yticks(range(len(LABELS)), LABELS, fontsize=TEXT)
    words = [WORDS[i] for i in ids.tolist()]
    below.set_xticks(range(len(words)), words, fontsize=TEXT, rotation=30, ha="right")
    below.set_xlabel("word of the sentence", fontsize=TEXT)
    figure.colorbar(image, ax=below).set_label("P(label at this word)", fontsize=TEXT)
    strips.set_title("A made sentence that was not trained on", fontsize=TEXT, loc="left")
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Train, take the longest of twenty new sentences, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "entities.png")
    asked = parser.parse_args(arguments)
    model = trained(asked.steps)
    batch = batch_of(random.Random(1), 20)
    lengths = batch["attention_mask"].sum(1)
    i, T = int(lengths.argmax()), int(lengths.max())
    with torch.no_grad():
        segments = model(**batch).segments.to_list()[i]
    found = [s.label for s in segments for _ in range(s.start, s.end)]
    ids = batch["input_ids"][i, :T]
    true = batch["labels"][i, :T].tolist()
    picture(ids, true, found, posterior_of(model, ids)).savefig(asked.output, dpi=150)


if __name__ == "__main__":
    main()
