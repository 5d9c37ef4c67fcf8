"""Models for other programs and other people, and models from Keras."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import jaxlm
from jaxlm import config as config_lib
from jaxlm import invocation
from jaxlm.config import Gates, TrainConfig, checkpoints_folder, recipe_settings
from jaxlm.errors import InputError, RunError
from jaxlm.nn.model import Params, count_parameters
from jaxlm.notations.registry import PROSE
from jaxlm.runs import keras, layouts
from jaxlm.runs.command import training_command, without_folders
from jaxlm.runs.data import SEED_LENGTH, notation_of, reading, seed_text
from jaxlm.runs.files import MEBIBYTE, Damaged, make_folder, read_bytes, write_bytes
from jaxlm.runs.run import Record, Run, find, locate, now
from jaxlm.runs.storage import FULL, Progress
from jaxlm.text.corpus import load_corpus
from jaxlm.text.vocab import Vocab

log = logging.getLogger("jaxlm")

Place = str | os.PathLike[str]

CARD = "README.md"
"""The model card of an exported directory; that of a file has the file's name and .md after it."""


def export(run: Run | Place, destination: Place) -> Path:
    """Writes the best weights of a run for others, with a model card in Markdown; whole or not at all.

    Args:
      run: the run, its directory, or its name, as in `load`.
      destination: by its suffix, `.safetensors`: the state dict of a PyTorch module with the parts `embedding`, if
        there is one, `lstm` and `linear`; the settings and the vocabulary are in its metadata. `.keras`: a model for
        Keras 3, and the vocabulary in it as vocab.json. Otherwise a directory, as `Run.export` makes it.

    Returns:
      The path of the file, or of the directory.

    Raises:
      InputError: there is no such run, or no good checkpoint in it; the network cannot be such a file; or something is
        there already, or it cannot be written to.
      RunError: a library is not installed, or the disk is full.
    """
    run = run if isinstance(run, Run) else Run.open(find(run, trained=True))
    path = Path(os.path.abspath(os.path.expanduser(destination)))
    kind = path.suffix.lower()
    if kind not in WRITERS:
        params, progress = run.weights()
        return run.export(path, {CARD: _card(run, params, progress, _DIRECTORY)}).path
    _check_plain(run, kind)
    card = path.with_name(f"{path.name}.md")
    for place in (path, card):
        if os.path.lexists(place):
            raise InputError(
                f"destination {invocation.shown(place)}: found something there, and nothing is ever overwritten; "
                "choose another name"
            )
    params, progress = run.weights()
    contents = {
        card: _card(run, params, progress, _USES[kind].format(name=path.name)).encode("utf-8"),
        path: WRITERS[kind](run, params),
    }
    written = []
    try:
        make_folder(path.parent)
        for place, content in contents.items():
            write_bytes(place, content)
            written.append(place)
    except BaseException as error:
        for place in written:
            place.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        message = f"destination {invocation.shown(path)}: cannot be written to ({error.strerror})"
        if error.errno in FULL:
            raise RunError(f"{message}; free some disk space, then try again") from error
        raise InputError(f"{message}; choose another folder") from error
    if resets := _resets(run.record.config):
        log.warning("%s: %s, as its card says", invocation.shown(path), resets)
    return path


def _check_plain(run: Run, kind: str) -> None:
    """Raises InputError if the network is more than what PyTorch and Keras call LSTM layers."""
    found, model = "", run.record.config.model
    if model.ngram:
        found = "counts of n-grams"
    elif model.gates != "sigmoid":
        found = f"gates of {model.gates}, which PyTorch's and Keras 3's LSTM have not"
    if found:
        raise InputError(
            f"destination: a {kind} file cannot hold run {run.shown}, whose network has {found}; export it as a "
            "directory, with a name that has no such suffix"
        )


def _safetensors(run: Run, params: Params) -> bytes:
    try:
        from safetensors import numpy as safetensors
    except ModuleNotFoundError as error:
        raise RunError(
            "safetensors is not installed, which .safetensors files need; install it: python -m pip install "
            "'jaxlm[safetensors]'"
        ) from error
    config = {**config_lib.to_json(without_folders(run.record.config)), "corpus": run.record.corpus}
    about = {"format": "pt", "jaxlm": jaxlm.__version__, "config": json.dumps(config)}
    content: bytes = safetensors.save(
        layouts.to_torch(params), {**about, "vocab": json.dumps(run.vocab.to_json(), ensure_ascii=False)}
    )
    return content


def _keras(run: Run, params: Params) -> bytes:
    stream = run.record.config.recipe == "stream"
    length = None if stream else run.record.config.length
    return keras.write(params, run.vocab.to_json(), length=length, sequences=stream)


WRITERS: dict[str, Callable[[Run, Params], bytes]] = {".safetensors": _safetensors, ".keras": _keras}
"""By the suffix: takes a run and its weights; returns the content of the file."""


def _resets(config: TrainConfig) -> str:
    """What files for other programs cannot say themselves: that a network's state is reset in a text; else nothing."""
    if config.units is None:
        return ""
    borders = "before each line end" if config.units == "lines" else "between documents"
    return f"trained with a state of zeros {borders}, which whoever runs it must reset"


# The model card.

_DIRECTORY = """```python
import jaxlm

print(jaxlm.load("path/to/this/directory").generate(length=400, temperature=0.5))
```"""

_USES = {
    ".safetensors": """```python
import json
import safetensors.torch

state = safetensors.torch.load_file("{name}")  # the state dict of a module with `lstm`, `linear` and any `embedding`
with safetensors.safe_open("{name}", "pt") as file:
    vocab = json.loads(file.metadata()["vocab"])["tokens"]  # the text of each id
```

Without an embedding, the LSTM takes one-hot vectors.""",
    ".keras": """```python
import json, zipfile
import keras

model = keras.saving.load_model("{name}")
vocab = json.loads(zipfile.ZipFile("{name}").read("vocab.json"))["tokens"]  # the text of each id
```

Without an Embedding layer, it takes one-hot vectors.""",
}


def _card(run: Run, params: Params, progress: Progress, use: str) -> str:
    """A model card, as model hubs show it."""
    record = run.record
    config = record.config
    teacher = without_folders(config).teacher
    kind = {"char": "character", "byte": "byte", "word": "word"}[config.tokens]
    loss = f"{progress.judged:.4f} nats per {kind}" if progress.judged is not None else "not known"
    held_out = "Loss on its training text" if progress.validation is None else "Loss on text held out from training"
    size = f", {record.characters:,} characters" if record.characters else ""
    facts = {
        "Corpus": f"{record.corpus}{size}{', in lower case' if config.lowercase else ''}",
        **({} if notation_of(run) is PROSE else {"Notation": notation_of(run).files}),
        "Network": f"{config.model.layers} x LSTM({config.model.hidden}), {count_parameters(params):,} parameters",
        "Vocabulary": f"{len(run.vocab):,} {kind} tokens",
        held_out: f"{loss}, after epoch {progress.epoch}" if progress.epoch else loss,
        **({"Started from the weights of": record.parent} if record.parent else {}),
        **({"Learned also from": ", ".join(dict.fromkeys(teacher))} if teacher else {}),
        "Training began": record.created[:10],
    }
    if resets := _resets(config):
        facts["Memory"] = resets
    if config.model.ngram:
        facts["Counts"] = "the directory holds the training text, from which they follow"
    origin, how = f"trained with jaxlm {jaxlm.__version__}", f"```sh\n{training_command(config, record.parent)}\n```"
    if not progress.step and not record.parent:
        origin = f"imported with jaxlm {jaxlm.__version__}"
        how = f"Not by jaxlm, which imported it from {record.corpus}."
    rows = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
    return f"""---
library_name: jaxlm
pipeline_tag: text-generation
tags: [character-level, lstm]
license: other
---

# {run.path.name}

A {kind}-level LSTM language model, {origin}.

| | |
|---|---|
{rows}

## Use

{use}

## How it was trained

{how}

## Licence

jaxlm is under Apache 2.0, which says nothing of this model: it learned from its corpus, and may repeat passages of it.
Whoever shares the model states its licence here, one that the rights in the corpus permit.
"""


# From Keras.

CHARS_LIMIT = MEBIBYTE
"""The largest file of characters, in bytes."""


def import_keras(
    file: Place,
    *,
    chars: Place | None = None,
    corpus: Place | tuple[str, ...] | None = None,
    run: Place | None = None,
    checkpoints: Place | None = None,
    gates: Gates | None = None,
    length: int | None = None,
) -> Run:
    """Makes a run, of weights alone, of a model that Keras 2 or 3 saved: LSTM layers and a Dense with a softmax.

    What the file does not say of the network is assumed, and told.

    Args:
      file: a .keras, .weights.h5 or .h5 file.
      chars: a text file with the characters in the order of their ids, and nothing else.
      corpus: instead of `chars`, the text that the model learned from, whose distinct characters in sorted order it
        knows; in lower case, if the model has as many as that.
      run: the name of the run's directory, or a path; by default the file's name.
      checkpoints: the folder of runs; `$JAXLM_CHECKPOINTS` or `checkpoints` if left out.
      gates: their activation, if the file does not say.
      length: of the model's windows, if the file does not say.

    Raises:
      InputError: the file is missing, damaged, or of another kind of network; or its characters are not known.
      RunError: h5py is not installed, or the disk is full.
    """
    path = Path(os.path.expanduser(file))
    network = keras.read(path)
    folder = checkpoints_folder() if checkpoints is None else os.path.expanduser(checkpoints)
    config = _config_of(path, network, gates, length)
    vocabulary = len(network.params["dense"]["bias"])
    text, sources, sha256, how = "", None, "", {}
    if chars is not None and corpus is not None:
        raise InputError("chars, corpus: found both, expected one of them; leave the other out")
    if chars is not None:
        vocab = Vocab("char", _characters(Path(os.path.expanduser(chars)), vocabulary))
    elif corpus is not None:
        sources = (os.fspath(corpus),) if isinstance(corpus, str | os.PathLike) else corpus
        read = load_corpus(sources, lowercase=False, normalize=False, notation=PROSE.name)
        if len(set(read.text)) != vocabulary:
            read = load_corpus(sources, lowercase=True, normalize=False, notation=PROSE.name)
        if len(set(read.text)) != vocabulary:
            raise InputError(
                f"corpus {' '.join(sources)}: found {len(set(read.text)):,} distinct characters in lower case, "
                f"expected the model's {vocabulary:,}; name the text that it learned from, or give its characters with "
                f"{invocation.setting('chars')}"
            )
        text, sources, sha256, how = read.text, read.sources, read.sha256, reading(read)
        vocab = Vocab("char", tuple(sorted(set(text))))
    elif network.vocab is not None:
        vocab = Vocab.from_json(network.vocab)
    else:
        raise InputError(
            f"chars: expected a file with the {vocabulary:,} characters of the model in the order of their ids, or "
            f"with {invocation.setting('corpus')} the text that it learned from"
        )
    if len(vocab) != vocabulary:
        raise InputError(f"{path}: found {len(vocab):,} tokens in its {keras.TOKENS}, expected {vocabulary:,}")
    lowercase = all(token == token.lower() for token in vocab.tokens)
    default = seed_text(text, min(config.length, SEED_LENGTH)) or (" " if " " in vocab.ids else vocab.tokens[0])
    record = Record(
        config=dataclasses.replace(
            config, corpus=sources, lowercase=lowercase, normalize=False, notation="text", tokens=vocab.kind
        ),
        corpus=path.name,
        characters=len(text),
        sha256=sha256,
        seed_text=default,
        created=now(),
        reading=how,
    )
    name = path.name.split(".")[0] if run is None else run
    return Run.create(locate(name, folder), record, vocab, None, ({"params": network.params}, Progress()))


def _config_of(path: Path, network: keras.Network, gates: Gates | None, length: int | None) -> TrainConfig:
    """The settings of a run with this network.

    Raises:
      InputError: a setting contradicts the file.
    """
    for name, asked, found in (("gates", gates, network.gates), ("length", length, network.length)):
        if asked is not None and found is not None and asked != found:
            raise InputError(f"{name}: found {asked!r}, but {path} says {found!r}; leave it out")
    assumed = []
    if gates is None and network.gates is None:
        assumed.append(f"gates of sigmoid (else: {invocation.setting('gates', 'hard_sigmoid')})")
    if network.sequences is None:
        assumed.append("a model that predicts one character after each window")
    recipe = recipe_settings("stream" if network.sequences else "book")
    if not network.sequences and length is None and network.length is None:
        assumed.append(f"windows of {recipe.length} characters (else: {invocation.setting('length', 40)})")
    if assumed:
        log.warning("%s: does not say all of the network; assumed: %s", path, "; ".join(assumed))
    first = network.params["lstm_0"]["hi"]["kernel"]
    layers = sum(name.startswith("lstm_") for name in network.params)
    if any(network.params[f"lstm_{number}"]["hi"]["kernel"].shape != first.shape for number in range(layers)):
        raise InputError(f"{path}: found LSTM layers of different sizes, expected the same number of units in each")
    model = config_lib.ModelConfig(
        hidden=len(first),
        layers=layers,
        embedding=network.params["embed"]["embedding"].shape[1] if "embed" in network.params else 0,
        gates=gates or network.gates or "sigmoid",
    )
    return dataclasses.replace(recipe, model=model, length=length or network.length or recipe.length)


def _characters(path: Path, vocabulary: int) -> tuple[str, ...]:
    """The characters in a file, in the order of their ids.

    Raises:
      InputError: it cannot be read, or they are not as many, or not distinct.
    """
    try:
        text = read_bytes(path, CHARS_LIMIT).decode("utf-8")
    except (Damaged, UnicodeDecodeError) as error:
        found = str(error) if isinstance(error, Damaged) else f"{path.name} is not UTF-8"
        raise InputError(f"chars {path}: {found}; expected a text file with the model's characters") from error
    except OSError as error:
        raise InputError(f"chars {path}: cannot be read ({error.strerror}); fix the cause") from error
    if len(text) == vocabulary + 1:
        text = text.removesuffix("\n")  # Which editors add.
    twice = sorted({character for character in text if text.count(character) > 1}) if len(text) < 2**16 else []
    if twice or len(text) != vocabulary:
        found = f"{', '.join(map(repr, twice[:10]))} more than once" if twice else f"{len(text):,} characters"
        raise InputError(
            f"chars {path}: found {found}, expected the {vocabulary:,} characters of the model, each once, in the "
            "order of their ids, and nothing else"
        )
    return tuple(text)
