"""Entities, as a Hugging Face model finds them, with our head; F1 by seqeval (extra ``text``)."""

import argparse
import random
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from torch_semimarkov import SemiMarkovCRFHead, bio_transitions

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
CUES = {"PER": ["mr", "says"], "LOC": ["in", "near"]}  # a cue tells the type of what follows
NAMES, PLAIN = [f"name{i}" for i in range(40)], [f"word{i}" for i in range(20)]
WORDS = ["<pad>", *NAMES, *PLAIN, *CUES["PER"], *CUES["LOC"]]


class TokenClassifier(nn.Module):
    """Gives loss, logits and, unless training, segments whose labels are BIO."""

    def __init__(self, vocab_size, hidden_size=32, layers=2, max_duration=8):
        super().__init__()
        self.words, self.places = (nn.Embedding(n, hidden_size) for n in (vocab_size, 64))
        layer = nn.TransformerEncoderLayer(hidden_size, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        grammar = bio_transitions(LABELS)._asdict()  # I-x only after B-x or I-x, as -inf
        self.head = SemiMarkovCRFHead(len(LABELS), max_duration, hidden_size, **grammar)

    def forward(self, input_ids, attention_mask, labels=None):
        lengths, words = attention_mask.sum(1), self.words(input_ids)
        words = words + self.places.weight[: input_ids.shape[1]]
        hidden = self.encoder(words, src_key_padding_mask=attention_mask == 0)
        output = SimpleNamespace(loss=None, logits=self.head.projection(hidden), segments=None)
        if labels is not None:  # what stands past the lengths, such as -100, has no effect
            output.loss = self.head.compute_loss(hidden, lengths, labels, long_runs="split")
        if not self.training:
            output.segments = self.head.decode(hidden, lengths).segments
        return output


def batch_of(rng, size):
    """A batch of sentences: words, a cue, an entity of one to four names, and words."""
    ids, tags = [], []
    for kind in rng.choices(list(CUES), k=size):
        before, after, count = (rng.randint(low, 4) for low in (0, 0, 1))
        words = rng.choices(NAMES + PLAIN, k=before) + rng.choices(CUES[kind])
        words += rng.choices(NAMES, k=count) + rng.choices(PLAIN, k=after)
        names = ["O"] * (before + 1) + [f"B-{kind}"] + [f"I-{kind}"] * (count - 1) + ["O"] * after
        ids.append(torch.tensor(list(map(WORDS.index, words))))
        tags.append(torch.tensor(list(map(LABELS.index, names))))
    ids, tags = pad_sequence(ids, True), pad_sequence(tags, True, -100)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": tags}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args(arguments)
    try:
        from seqeval.metrics import f1_score
    except ImportError:
        parser.error("needs seqeval: pip install torch_semimarkov[text]")
    torch.manual_seed(0)
    rng, model = random.Random(0), TokenClassifier(len(WORDS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(asked.steps):
        model.zero_grad()
        model(**batch_of(rng, 16)).loss.backward()
        optimizer.step()
    batch = batch_of(rng, 200)
    true, found = batch["labels"].tolist(), model.eval()(**batch).segments.to_list()
    true = [[LABELS[i] for i in row if i >= 0] for row in true]
    found = [[LABELS[s.label] for s in row for _ in range(s.start, s.end)] for row in found]
    print(f"entity F1 {f1_score(true, found):.3f}")


if __name__ == "__main__":
    main()
