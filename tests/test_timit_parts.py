"""Which records of the speech recipe are trained on, validated on and tested on."""

import json
from itertools import chain

import numpy as np
import pytest
from timit_cases import REASON, prepared, varied, write_utterance, write_words

from torch_semimarkov.errors import ConfigError, FileFormatError

for name in ("soundfile", "librosa", "praatio"):
    pytest.importorskip(name, reason=REASON)
phone_data = pytest.importorskip("phone_data")


def test_no_word_is_in_two_parts_and_the_seed_draws_them(tmp_path):
    words = [f"word{i // 2}" for i in range(24)]  # each word once in each of two folders
    manifest, _ = prepared(write_words(tmp_path / "in", words), tmp_path / "out")
    said = {u["name"]: (u["folder"], u["words"]) for u in manifest.utterances}
    draws = [phone_data.parts_of(manifest, "word", seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for parts in draws:
        assert sorted(chain(*parts.values())) == sorted(said)
        held = [{said[name] for name in names} for names in parts.values()]
        assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
        assert len(parts["test"]) == 6 and len(parts["validation"]) == 4
    with pytest.raises(ConfigError, match="2 different values of folder are too few"):
        phone_data.parts_of(manifest, "folder", 0)


def test_records_without_words_are_not_split_by_word(tmp_path):
    for i in range(6):
        write_utterance(tmp_path / "in", f"u{i}", varied(np.random.default_rng(i)))
    manifest, _ = prepared(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ConfigError, match="'u0' has no words to split by"):
        phone_data.parts_of(manifest, "word", 0)
    assert len(phone_data.parts_of(manifest, "file", 0)["train"]) == 3


def test_a_damaged_manifest_is_named(tmp_path):
    path = tmp_path / "manifest.json"
    for content in ("{", "[]", json.dumps({"format": "other"})):
        path.write_text(content)
        with pytest.raises(FileFormatError, match=r"manifest\.json"):
            phone_data.read_manifest(tmp_path)
