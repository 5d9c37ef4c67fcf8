"""Models for PyTorch and Keras, and models from Keras."""

import dataclasses
import errno
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import contents
from reference import log_softmax, sigmoid
from reference import logits as numpy_logits

import jaxlm
from jaxlm.cli import commands
from jaxlm.errors import InputError
from jaxlm.nn.scoring import predict
from jaxlm.runs import exchange, files, hdf5, keras, layouts
from jaxlm.runs.run import Record, Run, now
from jaxlm.runs.storage import Progress
from jaxlm.text.vocab import Vocab

h5py = pytest.importorskip("h5py", reason="h5py, by which Keras's files are read, is not installed")
safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")

FILES = Path(__file__).with_name("keras_files")
"""Models that Keras saved, and what it predicts with them; keras_files.py writes them."""

CHARACTERS = "nabcdefg hi"
WINDOWS = np.random.default_rng(0).integers(0, len(CHARACTERS), (64, 12))
"""As in keras_files.py."""

EVERY = {
    "keras-3.keras": "keras-3",
    "keras-3.h5": "keras-3",
    "keras-3.weights.h5": "keras-3",
    "keras-3-deep.keras": "keras-3-deep",
    "keras-2-hard.h5": "keras-2-hard",
    "keras-2-hard.keras": "keras-2-hard",
    "keras-2-hard-weights.h5": "keras-2-hard",
    "keras-2-deep.h5": "keras-2-deep",
    "keras-2-cudnn.h5": "keras-2-cudnn",
}
"""The file of the predictions of each model."""


@pytest.fixture
def chars(tmp_path):
    path = tmp_path / "chars.txt"
    path.write_text(CHARACTERS)
    return path


def model_run(path, *, embedding=0, layers=2, recipe="book", characters=CHARACTERS, **network):
    """A run with random weights."""
    base = jaxlm.BOOK if recipe == "book" else jaxlm.SIZES["small"]
    model = jaxlm.ModelConfig(5, layers, embedding, **network)
    config = dataclasses.replace(base, corpus=("/secret/place/ox.txt",), length=12, model=model)
    vocab = Vocab("char", tuple(characters))
    draw = np.random.default_rng(3)
    shapes = jaxlm.LanguageModel(len(vocab), model).abstract_params()
    params = jax.tree.map(lambda leaf: draw.normal(0, 1, leaf.shape).astype(np.float32), shapes)
    record = Record(config, "ox", 1234, "", "nab", now())
    progress = Progress(step=9, epoch=2, loss=1.5, validation=1.75)
    ids = vocab.encode("hang a bag in a big cab") if model.ngram else None
    return Run.create(path, record, vocab, ids, ({"params": params}, progress)), params


# To PyTorch.


@pytest.mark.parametrize("embedding", [0, 4])
def test_a_state_dict_is_what_pytorch_documents(tmp_path, embedding):
    """The equations of torch.nn.LSTM's documentation, in NumPy, with its names, shapes and order of gates."""
    run, params = model_run(tmp_path / "ox", embedding=embedding)
    path = exchange.export(run, tmp_path / "ox.safetensors")
    state = {name: leaf.astype(float) for name, leaf in safetensors.load_file(path).items()}
    V, H = len(CHARACTERS), 5
    shapes = {name: leaf.shape for name, leaf in state.items()}
    expected = {"linear.weight": (V, H), "linear.bias": (V,)}
    for layer, width in enumerate((embedding or V, H)):
        expected |= {f"lstm.weight_ih_l{layer}": (4 * H, width), f"lstm.weight_hh_l{layer}": (4 * H, H)}
        expected |= {f"lstm.bias_ih_l{layer}": (4 * H,), f"lstm.bias_hh_l{layer}": (4 * H,)}
    assert shapes == expected | ({"embedding.weight": (V, embedding)} if embedding else {})

    rows = state["embedding.weight"] if embedding else np.eye(V)
    found = []
    for window in WINDOWS[:8]:
        xs = rows[window]
        for layer in range(2):
            h, c, outputs = np.zeros(H), np.zeros(H), []
            W, U, b, d = (state[f"lstm.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            (Wi, Wf, Wg, Wo), (Ui, Uf, Ug, Uo), (bi, bf, bg, bo), (di, df, dg, do) = (
                np.split(part, 4) for part in (W, U, b, d)
            )
            for x in xs:
                i = sigmoid(Wi @ x + bi + Ui @ h + di)
                f = sigmoid(Wf @ x + bf + Uf @ h + df)
                g = np.tanh(Wg @ x + bg + Ug @ h + dg)
                o = sigmoid(Wo @ x + bo + Uo @ h + do)
                c = f * c + i * g
                h = o * np.tanh(c)
                outputs.append(h)
            xs = outputs
        found.append(np.stack(xs) @ state["linear.weight"].T + state["linear.bias"])
    np.testing.assert_allclose(found, numpy_logits(params, WINDOWS[:8], V), atol=1e-9)


def test_a_safetensors_file_holds_settings_and_vocabulary(tmp_path):
    run, _ = model_run(tmp_path / "ox")
    content = exchange.export(run, tmp_path / "ox.safetensors").read_bytes()
    [size] = struct.unpack("<Q", content[:8])
    about = json.loads(content[8 : 8 + size])["__metadata__"]
    assert json.loads(about["vocab"])["tokens"] == list(CHARACTERS)
    assert json.loads(about["config"])["model"]["hidden"] == 5
    assert about["format"] == "pt"
    assert b"/secret" not in content


# To Keras.


@pytest.mark.parametrize("recipe", ["book", "stream"])
@pytest.mark.parametrize("embedding", [0, 4])
def test_keras_reads_what_is_exported(tmp_path, embedding, recipe):
    script = (
        "import sys; import numpy as np; import keras\n"
        "inputs = np.load(sys.argv[2])\n"
        "np.save(sys.argv[3], keras.saving.load_model(sys.argv[1]).predict(inputs, verbose=0))"
    )
    run, params = model_run(tmp_path / "ox", embedding=embedding, recipe=recipe)
    path = exchange.export(run, tmp_path / "ox.keras")
    inputs = WINDOWS if embedding else np.eye(len(CHARACTERS), dtype=np.float32)[WINDOWS]
    np.save(tmp_path / "in.npy", inputs)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)}
    arguments = [str(path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, encoding="utf-8", env=environment
    )
    if "No module named 'keras'" in done.stderr:
        pytest.skip("keras is not installed")
    assert done.returncode == 0, done.stderr
    expected = np.exp(log_softmax(numpy_logits(params, WINDOWS, len(CHARACTERS))))
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, expected if recipe == "stream" else expected[:, -1], atol=1e-5)


@pytest.mark.parametrize("embedding", [0, 4])
def test_pytorch_reads_what_is_exported(tmp_path, embedding):
    torch = pytest.importorskip("torch", reason="PyTorch, which is only a peer of the benchmarks, is not installed")
    run, params = model_run(tmp_path / "ox", embedding=embedding)
    path, sizes = exchange.export(run, tmp_path / "ox.safetensors"), run.record.config.model

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            if embedding:
                self.embedding = torch.nn.Embedding(len(CHARACTERS), embedding)
            self.lstm = torch.nn.LSTM(embedding or len(CHARACTERS), sizes.hidden, sizes.layers, batch_first=True)
            self.linear = torch.nn.Linear(sizes.hidden, len(CHARACTERS))

        def forward(self, ids):
            one_hot = torch.nn.functional.one_hot(ids, len(CHARACTERS)).float()
            return self.linear(self.lstm(self.embedding(ids) if embedding else one_hot)[0])

    model = Model()
    model.load_state_dict({name: torch.from_numpy(leaf) for name, leaf in safetensors.load_file(path).items()})
    with torch.no_grad():
        found = model(torch.from_numpy(WINDOWS.astype(np.int64))).numpy()
    np.testing.assert_allclose(found, numpy_logits(params, WINDOWS, len(CHARACTERS)), atol=1e-5)


@pytest.mark.parametrize("recipe", ["book", "stream"])
@pytest.mark.parametrize("embedding", [0, 4])
def test_what_is_exported_for_keras_is_imported_again_bit_for_bit(tmp_path, embedding, recipe):
    run, params = model_run(tmp_path / "ox", embedding=embedding, recipe=recipe)
    again = exchange.import_keras(exchange.export(run, tmp_path / "ox.keras"), run=tmp_path / "again")
    found, _ = again.weights()
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert again.vocab == run.vocab
    assert again.record.config.model == run.record.config.model
    assert again.record.config.recipe == recipe


# Either way.


@pytest.mark.parametrize("name", ["ox.safetensors", "ox.keras", "directory"])
def test_each_comes_with_a_model_card(tmp_path, name):
    run, _ = model_run(tmp_path / "ox")
    path = exchange.export(run, tmp_path / "new" / name)
    card = (path / "README.md" if path.is_dir() else path.with_name(f"{path.name}.md")).read_text()
    for part in (
        "| Corpus | ox, 1,234 characters, in lower case |",
        "2 x LSTM(5)",
        "| Loss on text held out from training | 1.7500 nats per character, after epoch 2 |",
        "jaxlm train ox.txt --recipe book --hidden 5 --layers 2 --length 12\n",
        "## Licence",
    ):
        assert part in card
    assert "/secret" not in card
    assert name in card or path.is_dir()
    if path.is_dir():
        assert Run.open(path).generator()[0].generate("nab", 5, seed=1).startswith("nab")


@pytest.mark.parametrize(
    ("units", "told"),
    [(None, ""), ("lines", "a state of zeros before each line end"), ("files", "a state of zeros between documents")],
)
def test_who_exports_a_run_of_documents_is_told_that_others_must_reset_its_memory(tmp_path, capsys, units, told):
    run, _ = model_run(tmp_path / "ox", recipe="stream", characters=CHARACTERS + "\n")
    run.write_record(dataclasses.replace(run.record, config=dataclasses.replace(run.record.config, units=units)))
    assert commands.export([str(run.path), str(tmp_path / "ox.keras")]) == 0
    *told_first, written = capsys.readouterr().err.splitlines()
    assert written.startswith("Written: ")
    assert len(told_first) == bool(units)
    assert told in "".join(told_first)
    assert told in (tmp_path / "ox.keras.md").read_text()
    # A directory resets it itself.
    assert commands.export([str(run.path), str(tmp_path / "copy")]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_model_with_counts_is_exported_as_a_directory_alone(tmp_path):
    run, _ = model_run(tmp_path / "ox", recipe="stream", ngram=3)
    before = contents(tmp_path)
    for suffix in (".safetensors", ".keras"):
        with pytest.raises(InputError, match=rf"a {suffix} file cannot hold run .*ox, .*counts.*; export it as a"):
            exchange.export(run, tmp_path / f"ox{suffix}")
    assert contents(tmp_path) == before
    assert "holds the training text" in (exchange.export(run, tmp_path / "copy") / "README.md").read_text()


def test_hard_gates_are_not_what_pytorch_and_keras_3_have(tmp_path):
    run, _ = model_run(tmp_path / "ox", gates="hard_sigmoid")
    with pytest.raises(InputError, match="whose network has gates of hard_sigmoid"):
        exchange.export(run, tmp_path / "ox.keras")


@pytest.mark.parametrize("taken", ["ox.keras", "ox.keras.md"])
def test_nothing_is_overwritten(tmp_path, taken):
    run, _ = model_run(tmp_path / "run")
    (tmp_path / taken).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"destination .*{taken}: found something there"):
        exchange.export(run, tmp_path / "ox.keras")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_export_that_is_not_finished_leaves_nothing(tmp_path, monkeypatch, trouble):
    run, _ = model_run(tmp_path / "run")
    before, write = contents(tmp_path), files.write_bytes

    def refuse(path, content):
        if path.suffix == ".keras":
            raise trouble
        write(path, content)

    monkeypatch.setattr(exchange, "write_bytes", refuse)
    with pytest.raises((jaxlm.RunError, KeyboardInterrupt)):
        exchange.export(run, tmp_path / "ox.keras")
    assert contents(tmp_path) == before


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    run, _ = model_run(tmp_path / "run")
    for module, suffix in (("h5py", ".keras"), ("safetensors", ".safetensors")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(jaxlm.RunError, match=rf"{module} is not installed.*pip install 'jaxlm\["):
            exchange.export(run, tmp_path / f"ox{suffix}")
    with pytest.raises(jaxlm.RunError, match="h5py is not installed"):
        exchange.import_keras(FILES / "keras-3.keras", chars="chars.txt")


# From Keras.


@pytest.mark.parametrize(("name", "predictions"), EVERY.items())
def test_it_predicts_what_keras_predicts(name, predictions, chars, tmp_path):
    gates = "hard_sigmoid" if name == "keras-2-hard-weights.h5" else None
    run = exchange.import_keras(FILES / name, chars=chars, run=tmp_path / "run", gates=gates)
    for impl in ("scan", "fused"):
        generator, _ = run.generator(impl)
        logits = np.stack([predict(generator.model, generator.params, window, 12)[-1] for window in padded()])
        found = np.exp(log_softmax(logits.astype(float)))
        np.testing.assert_allclose(found, np.load(FILES / f"{predictions}.npy"), atol=1e-5)
    assert run.vocab.tokens == tuple(CHARACTERS)
    assert run.record.config.recipe == ("stream" if "deep" in name else "book")
    assert run.record.config.model.gates == ("hard_sigmoid" if "hard" in name else "sigmoid")
    assert generator.generate("nab", 9, temperature=0).startswith("nab")


def padded():
    """Each window, and one token after it, which is not read."""
    return np.pad(WINDOWS, ((0, 0), (0, 1)))


def test_what_the_file_does_not_say_is_told_in_a_line(chars, tmp_path, capsys):
    arguments = ["--chars", str(chars), "--run", str(tmp_path / "run")]
    assert commands.import_([str(FILES / "keras-3.weights.h5"), *arguments]) == 0
    [assumed, done] = capsys.readouterr().err.splitlines()
    assert "assumed: gates of sigmoid" in assumed
    assert "windows of 60 characters" in assumed
    assert done.startswith("Imported as run ")
    assert commands.import_([str(FILES / "keras-3.keras"), *arguments[:-1], str(tmp_path / "other")]) == 0
    assert "assumed" not in capsys.readouterr().err


def test_the_characters_may_be_those_of_a_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A Bad Fig")
    with pytest.raises(InputError, match=r"found 7 distinct characters in lower case, expected the model's 11"):
        exchange.import_keras(FILES / "keras-3.keras", corpus=str(path), run=tmp_path / "run")
    path.write_text("A Bad Fig hence big cab")
    run = exchange.import_keras(FILES / "keras-3.keras", corpus=str(path), run=tmp_path / "run")
    assert run.vocab.tokens == tuple(" abcdefghin")
    assert run.record.config.lowercase
    assert Run.open(run.path).record.reading == {"files": [[str(path), 23]], "left_out": []}
    path.write_text("A Bad Fig, he")
    cased = exchange.import_keras(FILES / "keras-3.keras", corpus=str(path), run=tmp_path / "cased")
    assert cased.vocab.tokens == tuple(sorted(set("A Bad Fig, he")))
    assert not cased.record.config.lowercase


CHARS = {
    "nabcdefg h": "found 10 characters, expected the 11 characters of the model",
    "nabcdefg hn": "found 'n' more than once",
    "nabcdefg hi\n\n": "found '\\n' more than once",
}


@pytest.mark.parametrize(("text", "message"), CHARS.items())
def test_other_characters_are_refused(text, message, tmp_path, capsys):
    (tmp_path / "chars.txt").write_text(text)
    arguments = [str(FILES / "keras-3.keras"), "--chars", str(tmp_path / "chars.txt"), "--run", str(tmp_path / "run")]
    assert commands.import_(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_line_end_after_the_characters_is_an_editor_s(tmp_path):
    (tmp_path / "chars.txt").write_text(CHARACTERS + "\n")
    run = exchange.import_keras(FILES / "keras-3.keras", chars=tmp_path / "chars.txt", run=tmp_path / "run")
    assert run.vocab.tokens == tuple(CHARACTERS)


def test_the_card_of_an_imported_model_does_not_say_that_jaxlm_trained_it(tmp_path, chars):
    run = exchange.import_keras(FILES / "keras-3.keras", chars=chars, run=tmp_path / "run")
    exchange.export(run, tmp_path / "again.safetensors")
    card = (tmp_path / "again.safetensors.md").read_text()
    assert "Not by jaxlm, which imported it from keras-3.keras." in card
    assert "jaxlm train" not in card


def test_the_card_of_a_run_that_has_not_trained_yet_names_what_it_started_from(tmp_path):
    trained, params = model_run(tmp_path / "old")
    record = dataclasses.replace(trained.record, parent="old", parent_weights="0" * 64)
    run = Run.create(tmp_path / "new", record, trained.vocab, None, ({"params": params}, Progress()))
    card = (exchange.export(run, tmp_path / "copy") / "README.md").read_text()
    assert "| Started from the weights of | old |" in card
    assert "| not known |" in card
    assert "--start-from old" in card
    assert "imported" not in card


def test_an_imported_model_can_be_trained_on(tmp_path, chars):
    exchange.import_keras(FILES / "keras-2-hard.h5", chars=chars, run=tmp_path / "old")
    (tmp_path / "text.txt").write_text("hang a bag in a big cab, friend! " * 30)
    asked = {"epochs": 1, "batch": 32, "length": 12, "reporter": None}
    jaxlm.train(tmp_path / "text.txt", run="new", checkpoints=tmp_path, start_from="old", **asked)
    run = Run.open(tmp_path / "new")
    assert (run.record.parent, run.record.config.model.gates) == ("old", "hard_sigmoid")
    assert run.vocab.tokens == (*CHARACTERS, "!", ",", "r")


# Files of strangers.


def described(change):
    """keras-3.h5 with its description changed."""
    content = io.BytesIO((FILES / "keras-3.h5").read_bytes())
    with h5py.File(content, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config)
    return content.getvalue()


def layer(number, **settings):
    return lambda config: config["config"]["layers"][number]["config"].update(settings)


def renamed(number, kind):
    return lambda config: config["config"]["layers"][number].update(class_name=kind)


def inside(change, name="keras-3.weights.h5"):
    """A file with its HDF5 changed."""
    content = io.BytesIO((FILES / name).read_bytes())
    with h5py.File(content, "r+") as file:
        change(file)
    return content.getvalue()


def replaced(path, make):
    def change(file):
        del file[path]
        make(file)

    return lambda: inside(change)


def zipped(**parts):
    content = io.BytesIO()
    with zipfile.ZipFile(FILES / "keras-3.keras") as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, parts.pop(name.split(".")[0], old.read(name)))
    return content.getvalue()


KERNEL = "layers/lstm/cell/vars/0"


def link(file):
    file[KERNEL] = h5py.ExternalLink("/etc/passwd", "/kernel")


def soft(file):
    file[KERNEL] = h5py.SoftLink("/layers/lstm/cell/vars/1")


def external(file):
    file.create_dataset(KERNEL, (11, 32), "f4", external=[("/etc/passwd", 0, 11 * 32 * 4)])


def virtual(file):
    layout = h5py.VirtualLayout((11, 32), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "kernel", (11, 32))
    file.create_virtual_dataset(KERNEL, layout)


def deep(file):
    path = "layers/lstm/cell/vars" + "/cell" * 3000
    file.move("layers/lstm", "layers/other")
    file.create_group(path)


HOSTILE = {
    "no such model": (lambda: b"no model", "HDF5 cannot read"),
    "nothing": (lambda: b"", "HDF5 cannot read"),
    "another archive": (lambda: zipped(config=b"[]"), "config.json is damaged"),
    "nested braces": (lambda: zipped(config=b"[" * 100000), "config.json is damaged"),
    "a bomb": (lambda: zipped(model=b"\0" * 2**26), "model.weights.h5 is too large for the file"),
    "a bidirectional layer": (lambda: described(renamed(1, "Bidirectional")), "a layer of class 'Bidirectional'"),
    "a GRU": (lambda: described(renamed(1, "GRU")), "a layer of class 'GRU'"),
    "a lambda": (lambda: described(renamed(1, "Lambda")), "a layer of class 'Lambda'"),
    "a functional model": (lambda: described(lambda config: config.update(class_name="Functional")), "'Functional'"),
    "no softmax": (lambda: described(layer(2, activation="linear")), "a Dense without a softmax"),
    "another activation": (lambda: described(layer(1, activation="relu")), "the activation 'relu'"),
    "a Dense of relu": (lambda: described(layer(2, activation="relu")), "a Dense without a softmax"),
    "a mask": (
        lambda: described(
            lambda config: config["config"]["layers"].insert(
                1, {"class_name": "Embedding", "config": {"mask_zero": True}}
            )
        ),
        "an Embedding with mask_zero",
    ),
    "other gates": (lambda: described(layer(1, recurrent_activation="hard_silu")), "recurrent_activation 'hard_silu'"),
    "Keras 3's hard gates": (lambda: (FILES / "keras-3-hard.keras").read_bytes(), "Keras 3's hard_sigmoid"),
    "backwards": (lambda: described(layer(1, go_backwards=True)), "go_backwards"),
    "layers that are none": (lambda: described(lambda config: config["config"].update(layers=3)), "without layers"),
    "a window of -1": (lambda: described(layer(0, batch_shape=[None, -1, 11])), "windows of -1"),
    "a layer too many": (
        lambda: described(
            lambda config: config["config"]["layers"].insert(1, {"class_name": "Embedding", "config": {}})
        ),
        "found weights of 2 layers, expected those of 3",
    ),
    "a link to a file": (replaced(KERNEL, link), "is a link to elsewhere"),
    "a link within": (replaced(KERNEL, soft), "is a link to elsewhere"),
    "a link for all layers": (
        replaced("layers", lambda file: file.update(layers=h5py.ExternalLink("/etc/passwd", "/"))),
        "is a link to elsewhere",
    ),
    "an array in another file": (replaced(KERNEL, external), "not stored in the file itself"),
    "a virtual array": (replaced(KERNEL, virtual), "not stored in the file itself"),
    "a huge array": (
        replaced(KERNEL, lambda file: file.create_dataset(KERNEL, (2**20, 2**20), "f4")),
        "claims to be far larger than the file",
    ),
    "a huge array, compressed": (
        replaced(
            KERNEL, lambda file: file.create_dataset(KERNEL, (2**13, 2**13), "f4", compression="gzip", fillvalue=1)
        ),
        "claims to be far larger than the file",
    ),
    "a huge chunk": (
        replaced(
            KERNEL,
            lambda file: file.create_dataset(KERNEL, (11, 32), "f4", chunks=(2**13, 2**13), maxshape=(None, None)),
        ),
        "claims to be far larger than the file",
    ),
    "other shapes": (replaced(KERNEL, lambda file: file.update({KERNEL: np.zeros((11, 31), "f4")})), "none of an LSTM"),
    "three axes": (replaced(KERNEL, lambda file: file.update({KERNEL: np.zeros((1, 1, 1), "f4")})), "no array of"),
    "words": (replaced(KERNEL, lambda file: file.update({KERNEL: np.zeros((11, 32), "S4")})), "no array of weights"),
    "no numbers": (
        replaced(KERNEL, lambda file: file.update({KERNEL: np.full((11, 32), np.nan, "f4")})),
        "not finite",
    ),
    "an array for a group": (replaced("layers/lstm", lambda file: file.update({"layers/lstm": 1.0})), "is missing"),
    "deep groups": (lambda: inside(deep), "its 'lstm/cell/vars/0' is missing"),
    "many layers": (
        lambda: inside(lambda file: [file.create_group(f"layers/dense_{number}") for number in range(300)]),
        "found 302 layers",
    ),
    "another layer": (lambda: inside(lambda file: file.move("layers/lstm", "layers/gru")), "a layer 'gru'"),
    "no weights": (replaced("layers", lambda file: file.create_group("layers")), "no weights of layers"),
}


def names_of_one_place(length):
    """A file whose layer_names are 256 texts of so many bytes, all in the same place: HDF5 makes room for each."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        names = ["x" * length, *map(str, range(255))]
        file.attrs.create("layer_names", names, dtype=h5py.string_dtype())
    whole = content.getvalue()
    # A reference to a text is 16 bytes: its size, the address of a heap, and its number in that.
    sizes = re.escape(struct.pack("<I", length)) + b".{12}" + re.escape(struct.pack("<I", 1))
    first = re.search(sizes, whole, re.DOTALL).start()
    return whole[:first] + whole[first : first + 16] * 256 + whole[first + 16 * 256 :]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory a process has")
def test_memory_is_bounded_by_the_size_of_the_file():
    # 1 GB of memory in a file of 4 MB; HDF5 says that it gets none.
    with pytest.raises(InputError, match=r"HDF5 cannot read .*memory allocation failed"):
        hdf5.read_apart(names_of_one_place(2**22))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("stored", [{}, {"compression": "gzip", "shuffle": True}], ids=str)
def test_weights_need_no_more_memory_than_is_allowed(dtype, stored):
    shapes = [(60, 4 * 1024), (1024, 4 * 1024), (4 * 1024,)], [(1024, 60), (60,)]
    draw = np.random.default_rng(0)
    arrays = [[draw.normal(size=shape).astype(dtype) for shape in layer] for layer in shapes]
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for layer, place in zip(arrays, ("lstm/cell", "dense"), strict=True):
            for number, array in enumerate(layer):
                file.create_dataset(f"layers/{place}/vars/{number}", data=array, **stored)
    assert_equal = np.testing.assert_array_equal
    jax.tree.map(assert_equal, hdf5.read_apart(content.getvalue()).layers, jax.tree.map(np.float32, arrays))


@pytest.mark.parametrize("kind", HOSTILE)
def test_another_file_is_refused_in_one_line(kind, chars, tmp_path, capsys):
    make, message = HOSTILE[kind]
    (tmp_path / "model.h5").write_bytes(make())
    before = contents(tmp_path)
    assert commands.import_([str(tmp_path / "model.h5"), "--chars", str(chars), "--run", str(tmp_path / "run")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert contents(tmp_path) == before


def test_a_file_that_keeps_hdf5_busy_or_crashes_it_is_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "READING_SECONDS", 0)
        with pytest.raises(InputError, match="HDF5 cannot read in 0 s"):
            keras.read(FILES / "keras-3.h5")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="a file on which HDF5 fails"):
        keras.read(FILES / "keras-3.h5")


def test_only_a_regular_file_is_read(chars, tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "link.h5").symlink_to(FILES / "keras-3.h5")
    for name, found in (("pipe.h5", "a pipe"), ("link.h5", "a link"), (".", "a folder")):
        with pytest.raises(InputError, match=rf"is {found}"):
            exchange.import_keras(tmp_path / name, chars=chars, run=tmp_path / "run")


@pytest.mark.parametrize("name", ["keras-3.keras", "keras-3.h5", "keras-3.weights.h5", "keras-2-cudnn.h5"])
def test_a_damaged_file_is_a_line_or_a_model(name, monkeypatch):
    monkeypatch.setattr(hdf5, "read_apart", hdf5.read)  # A process each would take long.
    content = (FILES / name).read_bytes()
    draw = random.Random(0)
    lines = []
    for _ in range(150):
        damaged = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for _ in range(draw.choice([1, 8])):
            damaged[draw.randrange(max(1, len(damaged)))] = draw.randrange(256)
        try:
            read = keras._read_zip if damaged[:2] == b"PK" else keras._read_hdf5
            network = read(bytes(damaged))
            assert layouts.to_keras(network.params)
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 50
    assert not any("\n" in line for line in lines)


def test_a_file_that_is_not_there_is_told_as_such(tmp_path, chars):
    with pytest.raises(InputError, match=r"book\.keras: found nothing there, expected a model that Keras saved"):
        exchange.import_keras(tmp_path / "book.keras", chars=chars, run=tmp_path / "run")


def test_no_module_of_the_current_folder_is_imported(tmp_path, monkeypatch, chars):
    (tmp_path / "h5py.py").write_text("open('executed', 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    exchange.import_keras(FILES / "keras-3.keras", chars=chars, run=tmp_path / "run")
    assert not (tmp_path / "executed").exists()


def test_an_archive_with_a_long_list_of_files_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.keras", "w") as file:
        for number in range(30_000):
            file.writestr(f"{number}", b"")
    with pytest.raises(InputError, match="a long list of files"):
        exchange.import_keras(tmp_path / "many.keras", run=tmp_path / "run")
