"""Keras's files: written for Keras 3, and read from Keras 2 and 3, by h5py alone.

A file may come from a stranger. Nothing of it is executed, links in it are not followed, and before an array is read,
its size is compared with the file's: an array that claims far more is not read.
"""

import dataclasses
import datetime
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config import Gates
from jaxlm.errors import InputError, first_line
from jaxlm.nn.model import Params
from jaxlm.runs import hdf5, layouts
from jaxlm.runs.files import MEBIBYTE, Damaged, read_bytes
from jaxlm.runs.hdf5 import KNOWN_LAYERS, LAYERS, Foreign, h5py_of

FILE_LIMIT, JSON_LIMIT = 512 * MEBIBYTE, 4 * MEBIBYTE
"""The largest file that is read, and the largest description of a network in one, in bytes."""

MOST_UNPACKED = 2
"""Weights hardly compress, and Keras does not try: an archive does not unpack to this many times its size."""

TOKENS = "vocab.json"
"""What we add to a .keras file: the vocabulary."""

DESCRIPTION, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


@dataclasses.dataclass(frozen=True)
class Network:
    """What a Keras file holds.

    Attributes:
      params: the parameters.
      gates: the activation of the gates; None if the file does not say.
      length: the length of its windows; None if it takes any, or the file does not say.
      sequences: whether it predicts at every position; None if the file does not say.
      vocab: the vocabulary's JSON values, if jaxlm wrote the file.
    """

    params: Params
    gates: Gates | None = None
    length: int | None = None
    sequences: bool | None = None
    vocab: Any = None


# Writing.


def write(params: Params, vocab: Any, *, length: int | None, sequences: bool) -> bytes:
    """The content of a .keras file, which Keras 3 reads: a Sequential of the network's layers.

    Args:
      params: of NumPy arrays.
      vocab: the vocabulary's JSON values.
      length: of the windows; None for any.
      sequences: whether it predicts at every position, or only after the last.

    Raises:
      RunError: h5py is not installed.
    """
    h5py = h5py_of()
    arrays = layouts.to_keras(params)
    vocabulary = len(params["dense"]["bias"])
    embedded = "embed" in params
    shape = [None, length] if embedded else [None, length, vocabulary]
    layers = [_layer("InputLayer", "input", {"batch_shape": shape, "dtype": "int32" if embedded else "float32"})]
    if embedded:
        layers.append(_layer("Embedding", "embedding", {"input_dim": vocabulary, "output_dim": arrays[0][0].shape[1]}))
    recurrent = arrays[embedded:-1]
    for number, (_, kernel, _) in enumerate(recurrent):
        settings = {"units": len(kernel), "return_sequences": sequences or number < len(recurrent) - 1}
        layers.append(_layer("LSTM", f"lstm{f'_{number}' if number else ''}", settings))
    layers.append(_layer("Dense", "dense", {"units": vocabulary, "activation": "softmax"}))
    config = {"name": "jaxlm", "trainable": True, "dtype": "float32", "layers": layers, "build_input_shape": shape}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for layer, leaves in zip(layers[1:], arrays, strict=True):
            name = layer["config"]["name"]
            place = f"layers/{name}/cell/vars" if layer["class_name"] == "LSTM" else f"layers/{name}/vars"
            for number, leaf in enumerate(leaves):
                file[f"{place}/{number}"] = np.asarray(leaf, np.float32)
    parts = {
        METADATA: {"keras_version": "3.0.0", "date_saved": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d@%H:%M:%S}"},
        DESCRIPTION: {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None},
        TOKENS: vocab,
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, values in parts.items():
            file.writestr(name, json.dumps(values))
        file.writestr(WEIGHTS, weights.getvalue())
    return content.getvalue()


def _layer(kind: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name, **settings},
        "registered_name": None,
    }


# Reading.


def read(path: Path) -> Network:
    """The network in a .keras, .weights.h5 or .h5 file of Keras 2 or 3.

    Raises:
      InputError: there is no such file, or it is damaged, or it holds a network that jaxlm has not.
      RunError: h5py is not installed.
    """
    h5py_of()
    if not os.path.lexists(path):
        raise Foreign(f"{path}: found nothing there, expected a model that Keras saved")
    try:
        content = read_bytes(path, FILE_LIMIT)
    except Damaged as error:
        raise Foreign(f"{path}: {error}; expected a model that Keras saved") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix the cause") from error
    try:
        return _read_zip(content) if content[:2] == b"PK" else _read_hdf5(content)
    except InputError as error:
        raise Foreign(f"{path}: {error}") from error


def _check_directory(content: bytes) -> None:
    """Refuses an archive whose list of files is long, of which `zipfile` would make an object for each."""
    end = content.rfind(b"PK\x05\x06", max(0, len(content) - 2**16 - 22))
    size = int.from_bytes(content[end + 12 : end + 16], "little")
    # A far larger size stands in a record before this one, to which a locator of 20 bytes points.
    if end >= 0 and (size > MEBIBYTE or content[max(0, end - 20) : end].startswith(b"PK\x06\x07")):
        raise Foreign("found an archive with a long list of files, so not Keras's")


def _read_zip(content: bytes) -> Network:
    _check_directory(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            parts = {}
            for name, limit in ((DESCRIPTION, JSON_LIMIT), (METADATA, JSON_LIMIT), (TOKENS, JSON_LIMIT), (WEIGHTS, 0)):
                if name in file.namelist():
                    if file.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise Foreign(f"its {name} is compressed in a way that Keras does not use")
                    limit = limit or MOST_UNPACKED * len(content) + MEBIBYTE
                    with file.open(name) as part:
                        parts[name] = part.read(limit + 1)
                    if len(parts[name]) > limit:
                        raise Foreign(f"its {name} is too large for the file; restore the file, or save it again")
    except Foreign:
        raise
    # As the modules that unpack it raise them.
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, OSError, ValueError) as error:
        raise Foreign(f"found a damaged archive ({first_line(error)[:100]}); save the model again") from error
    if DESCRIPTION not in parts or WEIGHTS not in parts:
        raise Foreign(
            f"found an archive without {DESCRIPTION if DESCRIPTION not in parts else WEIGHTS}, so not Keras's"
        )
    described = _described(_values(parts[DESCRIPTION], DESCRIPTION), _values(parts.get(METADATA, b"{}"), METADATA))
    network = _read_hdf5(parts[WEIGHTS], described)
    return dataclasses.replace(network, vocab=_values(parts[TOKENS], TOKENS)) if TOKENS in parts else network


def _values(content: bytes | str, name: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Foreign(f"its {name} is damaged ({first_line(error)[:100]}); save the model again") from error
    if not isinstance(values, dict):
        raise Foreign(f"its {name} is damaged (no object); save the model again")
    return values


def _read_hdf5(content: bytes, described: "_Described | None" = None) -> Network:
    found = hdf5.read_apart(content)
    if described is None and found.model_config is not None:
        described = _described(_values(found.model_config, "model_config"), {"keras_version": found.keras_version})
    layers = found.layers
    if described and len(layers) != described.weighted:
        raise Foreign(f"found weights of {len(layers)} layers, expected those of {described.weighted}, as it says")
    try:
        params = layouts.from_keras(layers) if layers else {}
    except ValueError as error:
        raise Foreign(f"{error}; expected an Embedding or none, LSTM layers, and a Dense with a softmax") from error
    if not params:
        raise Foreign("found no weights of layers; expected a model that Keras saved")
    if not all(np.isfinite(leaf).all() for layer in layers for leaf in layer):
        raise Foreign("found weights that are not finite; use another")
    if described is None:
        return Network(params)
    return Network(params, described.gates, described.length, described.sequences)


# What a file says of its network.


@dataclasses.dataclass(frozen=True)
class _Described:
    gates: Gates
    length: int | None
    sequences: bool
    weighted: int


def _described(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> _Described:
    """What the description of a network means.

    Raises:
      Foreign: it is not of the networks that jaxlm has.
    """
    try:
        return _read_description(config, str(metadata.get("keras_version")))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise Foreign(f"its description of the network is damaged ({type(error).__name__}); save it again") from error


def _read_description(config: Mapping[str, Any], version: str) -> _Described:
    if config["class_name"] != "Sequential":
        raise Foreign(f"found a model of class {config['class_name']!r:.60}, expected a Sequential one")
    inner = config["config"]
    layers: Sequence[Any] = inner["layers"] if isinstance(inner, dict) else inner
    if not isinstance(layers, list) or not 0 < len(layers) <= LAYERS:
        raise Foreign(f"found a model without layers, or more than {LAYERS}")
    gates: set[Gates] = set()
    sequences: list[bool] = []
    kinds: list[str] = []
    length, softmax, activation = None, False, None
    for layer in layers:
        kind, about = layer["class_name"], layer["config"]
        for key in ("batch_shape", "batch_input_shape"):
            if about.get(key) and len(about[key]) > 1 and length is None:
                length = about[key][1]
        if kind in ("LSTM", "CuDNNLSTM"):
            sequences.append(bool(about.get("return_sequences")))
            gates.add(_check_lstm(kind, about, version))
        elif kind == "Dense":
            activation = about.get("activation")
            softmax = activation == "softmax"
        elif kind == "Activation" and kinds and kinds[-1] == "Dense" and activation in (None, "linear"):
            activation = about.get("activation")
            softmax = activation == "softmax"
            continue
        elif kind in ("InputLayer", "Dropout"):
            continue
        elif kind == "Embedding":
            if about.get("mask_zero"):
                raise Foreign("found an Embedding with mask_zero, expected one that reads every character")
        else:
            raise Foreign(f"found a layer of class {str(kind)[:60]!r}, {KNOWN_LAYERS}")
        kinds.append(kind)
    bare = [kind.removeprefix("CuDNN") for kind in kinds]
    recurrent = bare[bare[:1] == ["Embedding"] : -1]
    if bare[-1:] != ["Dense"] or not recurrent or set(recurrent) != {"LSTM"}:
        raise Foreign(f"found the layers {', '.join(kinds)[:200]}, expected an Embedding or none, LSTMs, and a Dense")
    if not softmax:
        raise Foreign("found a Dense without a softmax, expected the probabilities of characters")
    if not all(sequences[:-1]) or len(gates) > 1:
        raise Foreign("found LSTM layers of different gates, or ones that do not pass on every output")
    if length is not None and (type(length) is not int or length < 1):
        raise Foreign(f"found windows of {length!r:.40} characters")
    return _Described(gates.pop(), length, sequences[-1], len(kinds))


def _check_lstm(kind: str, about: Mapping[str, Any], version: str) -> Gates:
    """The gates of an LSTM layer that computes what ours do.

    Raises:
      Foreign: it computes something else.
    """
    if about.get("go_backwards") or about.get("time_major"):
        raise Foreign(f"found an LSTM with {'go_backwards' if about.get('go_backwards') else 'time_major'}")
    activation = about.get("activation", "tanh")
    if activation != "tanh":
        raise Foreign(f"found an LSTM with the activation {str(activation)[:60]!r}, expected 'tanh'")
    found = about.get("recurrent_activation", "sigmoid")
    if kind == "CuDNNLSTM" or found == "sigmoid":
        return "sigmoid"
    if found == "hard_sigmoid" and re.match(r"[12]\.", version):
        return "hard_sigmoid"
    if found == "hard_sigmoid":
        raise Foreign(
            f"found an LSTM with Keras 3's hard_sigmoid, clip(x / 6 + 0.5) (keras_version {version[:20]}), expected "
            "gates of sigmoid or of Keras 2's hard_sigmoid, clip(0.2 x + 0.5)"
        )
    raise Foreign(f"found an LSTM with the recurrent_activation {str(found)[:60]!r}, expected sigmoid or hard_sigmoid")
