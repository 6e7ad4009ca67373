"""The example of entities: the calling convention, the grammar, and what seqeval says."""

import random
import sys
from itertools import pairwise

import pytest
import torch

example = pytest.importorskip("token_classification")
LABELS = example.LABELS


@pytest.fixture
def model():
    return example.TokenClassifier(len(example.WORDS))


def test_sentences_are_padded_as_a_tokenizer_pads_them():
    batch = example.batch_of(random.Random(0), 5)
    inside = batch["attention_mask"] == 1
    assert torch.equal(batch["input_ids"] > 0, inside)
    assert torch.equal(batch["labels"] >= 0, inside)
    assert (batch["labels"][~inside] == -100).all() and not inside.all()


def test_without_labels_there_is_no_loss_and_in_training_nothing_is_decoded(model):
    batch = example.batch_of(random.Random(0), 4)
    labels = batch.pop("labels")
    training = model.train()(**batch, labels=labels)
    assert training.loss.dim() == 0 and training.loss > 0 and training.segments is None
    decoding = model.eval()(**batch)
    assert decoding.loss is None
    assert decoding.logits.shape == (*labels.shape, len(LABELS))
    ends = [row[-1].end for row in decoding.segments.to_list()]
    assert ends == batch["attention_mask"].sum(1).tolist()


def test_padding_has_no_effect_on_the_loss(model):
    batch, model = example.batch_of(random.Random(0), 6), model.eval()
    alone = []
    for i in range(6):
        T = int(batch["attention_mask"][i].sum())
        alone.append(model(**{name: x[i : i + 1, :T] for name, x in batch.items()}).loss)
    torch.testing.assert_close(model(**batch).loss, torch.stack(alone).mean(), rtol=1e-4, atol=1e-4)


def test_no_untrained_model_opens_an_entity_by_an_inner_label(model):
    batch = example.batch_of(random.Random(1), 50)
    for row in model.eval()(**batch).segments.to_list():
        names = ["O", *(LABELS[segment.label] for segment in row)]
        for before, name in pairwise(names):
            assert not name.startswith("I-") or before[1:] == name[1:]


def test_entities_are_found_after_a_short_training(capsys):
    pytest.importorskip(
        "seqeval", reason="needs the extra text: pip install torch_semimarkov[text]"
    )
    example.main(["--steps", "120"])
    assert float(capsys.readouterr().out.split()[-1]) > 0.9


def test_what_is_missing_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(SystemExit) as stopped:
        example.main([])
    assert stopped.value.code == 2
    assert "pip install torch_semimarkov[text]" in capsys.readouterr().err
