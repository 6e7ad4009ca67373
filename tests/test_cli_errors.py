"""Every mistake in the input: exit code 2, one clear line, and nothing half-written."""

import shutil

import numpy as np
import pytest
from cli_cases import TINY_FLAGS, fails, listing, succeeds
from training_cases import tiny_records, write_npz


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("cli") / "data", tiny_records())


@pytest.fixture(scope="module")
def trained(data):
    folder = data.parent / "model"
    succeeds("train", data, "-o", folder, TINY_FLAGS)
    return folder


@pytest.fixture
def model(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


FLAGS = {
    "an unknown flag": ("--epocs 3", "No such option"),
    "text for a number": ("--epochs many", "'many' is not a valid integer"),
    "out of range": ("--epochs 0", "epochs must be >= 1, got 0"),
    "two out of range": ("--epochs 0 --lr -1", "epochs must be >= 1, got 0; lr must be > 0"),
    "no choice": ("--encoder gpt", "'gpt' is not one of"),
    "an odd BiLSTM": ("--encoder bilstm --hidden-dim 7", "hidden_dim of a BiLSTM must be even"),
    "no names": ("--channels a,,b", "no list of names"),
    "no such device": ("--device cuda:77", "device 'cuda:77' is not available"),
    "no device at all": ("--device potato", "device 'potato' is not available"),
    "both": ("--resume --overwrite", "exclude each other"),
    "no checkpoint": ("--resume", "no checkpoint to resume from"),
    "no config": ("--config none.yaml", "none.yaml: cannot be read"),
    "no validation data": ("--validation nowhere", "nowhere: no such file or folder"),
}


@pytest.mark.parametrize(("flags", "message"), FLAGS.values(), ids=FLAGS)
def test_train_refuses_a_wrong_flag(data, tmp_path, flags, message):
    assert message in fails("train", data, "-o", tmp_path / "new" / "m", flags)
    assert listing(tmp_path) == []


def test_train_refuses_an_unknown_key_of_a_config(data, tmp_path):
    (tmp_path / "run.yaml").write_text("epochs: 1\nmax_durations: 3\n")
    line = fails("train", data, "-o", tmp_path / "m", "--config", tmp_path / "run.yaml")
    assert "run.yaml: unknown key 'max_durations'; did you mean 'max_duration'?" in line
    assert listing(tmp_path) == ["run.yaml"]


BAD_FILES = {
    "an empty CSV": ("x.csv", b"", "x.csv: the file is empty"),
    "a broken row": ("x.csv", b"a,label\n1,x\n2\n", "x.csv:3: expected 2 cells"),
    "no number": ("x.csv", b"a,label\n1,x\nb,x\n", "x.csv:3: column 'a' must be a number"),
    "no label column": ("x.csv", b"a,b\n1,2\n", "records are not labelled"),
    "only labels": ("x.csv", b"label\nx\n", "no feature column"),
    "an empty NPZ": ("x.npz", b"", "x.npz: the file is empty"),
    "no NPZ": ("x.npz", b"PK hello", "x.npz: not a NumPy archive"),
    "an empty header": ("x.hea", b"", "x.hea: the file is empty"),
    "no reader": ("x.wav", b"RIFF", "x.wav: no reader"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_train_names_a_broken_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in fails("train", tmp_path / name, "-o", tmp_path / "m", TINY_FLAGS)
    assert listing(tmp_path) == [name]


BAD_ARRAYS = {
    "features in one dimension": ({"features": np.zeros(5)}, "features must be (T, D)"),
    "complex features": ({"features": np.zeros((5, 1), complex)}, "features must be real"),
    "NaN": ({"features": np.full((5, 1), np.nan)}, "features must be finite"),
    "labels too short": ({"labels": np.zeros(4, int)}, "labels must be (T,) = (5,), got (4,)"),
    "labels out of range": (
        {"labels": np.full(5, 7), "label_names": np.array(["a", "b"])},
        "labels must be in 0..1 as in label_names, got 7",
    ),
    "fractional labels": ({"labels": np.full(5, 0.5)}, "labels must be names or integers, got 0.5"),
    "a gap": ({"segments": np.array([[0, 2, 0], [3, 5, 1]])}, "gap, expected start 2"),
    "objects": ({"labels": np.array([{}] * 5, object)}, "x.npz: not a NumPy archive of plain"),
    "no features": ({"labels": np.zeros(5)}, "no array 'features'"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_train_names_a_broken_array(tmp_path, arrays, message):
    features = {} if message.startswith("no array") else {"features": np.zeros((5, 1))}
    np.savez(tmp_path / "x.npz", **{**features, **arrays})
    line = fails("train", tmp_path / "x.npz", "-o", tmp_path / "m", TINY_FLAGS)
    assert "x.npz: " in line and message in line
    assert listing(tmp_path) == ["x.npz"]


def test_train_refuses_records_that_do_not_fit_together(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "mixed")
    np.savez(folder / "z.npz", features=np.zeros((5, 3)), labels=np.zeros(5, int))
    line = fails("train", folder, "-o", tmp_path / "m", TINY_FLAGS, "--validation-fraction 0")
    assert "record 'z' has 3 features" in line
    np.savez(folder / "z.npz", features=np.zeros((5, 2)), labels=np.zeros(5, int), sample_rate=3.0)
    line = fails("train", folder, "-o", tmp_path / "m", TINY_FLAGS, "--validation-fraction 0")
    assert "different sample rates" in line
    assert not (tmp_path / "m").exists()


def test_train_refuses_a_folder_without_data_and_an_output_that_is_a_file(data, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no readable file" in fails("train", tmp_path / "empty", "-o", tmp_path / "m")
    (tmp_path / "file").write_text("mine")
    assert "must be a folder" in fails("train", data, "-o", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_train_does_not_replace_a_run_unasked(data, model):
    before = (model / "model.safetensors").read_bytes()
    assert "add --resume" in fails("train", data, "-o", model, TINY_FLAGS)
    assert "seed was 0, is 1" in fails("train", data, "-o", model, TINY_FLAGS, "--resume --seed 1")
    assert (model / "model.safetensors").read_bytes() == before


def test_a_failed_overwrite_keeps_the_run(data, model, tmp_path):
    before = listing(model)
    fails("train", tmp_path / "nowhere", "-o", model, "--overwrite")
    fails("train", data, "-o", model, "--overwrite --encoder bilstm --hidden-dim 7")
    assert listing(model) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_truncated_model_is_named_and_nothing_is_written(data, model, tmp_path, name):
    path = model / name
    path.write_bytes(path.read_bytes()[:-40])
    calls = [
        ("predict", model, data, "-o", tmp_path / "out"),
        ("evaluate", data, "--model", model),
        ("plot", data / "r0-0.npz", "--model", model, "-o", tmp_path / "x.png"),
    ]
    for one in calls:
        assert f"{name}: damaged or truncated" in fails(*one)
    assert listing(tmp_path) == ["model", *(f"model/{n}" for n in listing(model))]


def test_predict_names_a_broken_input_and_keeps_what_is_done(data, model, tmp_path):
    folder = shutil.copytree(data, tmp_path / "in")
    (folder / "r0-3.npz").write_bytes(b"")
    line = fails("predict", model, folder, "-o", tmp_path / "out", "--batch-size 1")
    assert "r0-3.npz: the file is empty" in line
    assert listing(tmp_path / "out") == [f"r0-{i}.segments.tsv" for i in range(3)]


def test_predict_refuses_what_does_not_fit(data, model, tmp_path):
    out = ("-o", tmp_path / "out")
    np.savez(tmp_path / "wide.npz", features=np.zeros((5, 3)))
    line = fails("predict", model, tmp_path / "wide.npz", *out)
    assert "record 'wide' has 3 features; the model was trained on 2" in line
    twin = shutil.copytree(data, tmp_path / "twin")
    assert "would both be written" in fails("predict", model, data, twin, *out)
    assert "no such file" in fails("predict", model, tmp_path / "none", *out)
    assert "no such model folder" in fails("predict", tmp_path / "none", data, *out)
    assert "Missing argument" in fails("predict", model, *out)
    assert "needs" in fails("predict", model, data, *out, "--format wfdb")
    assert "the output must be another folder" in fails("predict", model, data, "-o", data)
    assert not (tmp_path / "out").exists() or listing(tmp_path / "out") == []


def test_a_wfdb_record_without_its_header_is_named(model, tmp_path):
    pytest.importorskip("wfdb")
    (tmp_path / "r.dat").write_bytes(b"1234")
    line = fails("predict", model, tmp_path / "r.dat", "-o", tmp_path / "out")
    assert "r.hea" in line


def test_evaluate_refuses_what_cannot_be_compared(data, model, tmp_path):
    assert "either PREDICTED or --model" in fails("evaluate", data)
    assert "either PREDICTED or --model" in fails("evaluate", data, data, "--model", model)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "r0-0.segments.tsv").write_text("start\tend\tlabel\n0\t99\tlow\n")
    line = fails("evaluate", data, tmp_path / "p")
    assert "no sequence 'r0-1' (7 true ones are not predicted" in line
    line = fails("evaluate", data / "r0-0.npz", tmp_path / "p" / "r0-0.segments.tsv")
    assert "predicted up to position 99, but it has" in line
    (tmp_path / "p" / "r0-0.segments.tsv").write_text("start\tend\n0\t99\n")
    line = fails("evaluate", data / "r0-0.npz", tmp_path / "p" / "r0-0.segments.tsv")
    assert "r0-0.segments.tsv:1: no column label" in line
    assert "needs sample_rate" in fails("evaluate", data, data, "--unit ms")
    assert "existing folder" in fails("evaluate", data, data, "-o", tmp_path / "none" / "x.json")
    np.savez(tmp_path / "bare.npz", features=np.zeros((5, 2)))
    assert "not labelled" in fails("evaluate", tmp_path / "bare.npz", "--model", model)


def test_plot_draws_no_segments_that_overlap(data, tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("start\tend\tlabel\n0\t4\thigh\n3\t6\tlow\n")
    line = fails("plot", data / "r0-0.npz", "-o", tmp_path / "x.png", "--segments", table)
    assert "table.tsv: segments of 'table' overlap" in line
    assert "'low' from 3 to 6 starts before 4" in line
    assert listing(tmp_path) == ["table.tsv"]


def test_plot_refuses_what_it_cannot_draw(data, model, tmp_path):
    file = data / "r0-0.npz"
    assert "must end in .png" in fails("plot", file, "-o", tmp_path / "x.jpeg")
    assert "there is no folder" in fails("plot", file, "-o", tmp_path / "none" / "x.png")
    assert "without log.jsonl" in fails("plot", data, "-o", tmp_path / "x.png")
    assert "no such file" in fails("plot", tmp_path / "none.npz", "-o", tmp_path / "x.png").lower()
    assert "--from must be below" in fails("plot", file, "-o", tmp_path / "x.png", "--from 99")
    assert "not both" in fails(
        "plot", file, "-o", tmp_path / "x.png", "--model", model, "--segments", file
    )
    assert listing(tmp_path) == ["model", *(f"model/{n}" for n in listing(model))]


def test_the_demo_does_not_replace_files_unasked(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine").write_text("mine")
    assert "add --overwrite" in fails("demo", "--quick", "-o", tmp_path)
    assert "is no output of the demo" in fails("demo", "--quick", "-o", tmp_path, "--overwrite")
    assert listing(tmp_path) == ["test", "test/mine"]


def test_an_unknown_command_is_one_line():
    assert "No such command 'tain'" in fails("tain")
