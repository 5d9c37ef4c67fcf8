"""The arrays of a Keras file in HDF5 that may come from a stranger.

HDF5's library is not made for such files: some keep it busy for ever, or crash it. So a process of its own reads them,
with limits to its time and memory: `python -m jaxlm.runs.hdf5`, from standard input to standard output.
"""

import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxlm.errors import InputError, RunError, first_line

try:
    import resource
except ImportError:  # Windows.
    resource = None  # type: ignore[assignment]

MEGABYTE = 2**20

MOST_CLAIMED = 4
"""Weights hardly compress. Arrays that claim, as stored and as float32, this many times the bytes of their file are not
read: those of float32 are twice as large, those of float16 three times."""

SPARE_MEMORY = 64 * MEGABYTE
"""What the process that reads may take beyond what arrays may claim: HDF5's caches and tables."""

LAYERS = 256
"""The most layers of a network, the Dropouts among them."""

FILTERS = {1, 2, 3}
"""The filters of HDF5 that an array may have passed: deflate, shuffle, Fletcher's checksum."""

READING_SECONDS = 20
"""How long reading may take, beside a second for each megabyte."""

KNOWN_LAYERS = "expected only Embedding, LSTM, CuDNNLSTM, Dropout and Dense layers, one after another"


FAILURES = (OSError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, ValueError)
"""What h5py raises for damaged files."""


class Foreign(InputError):
    """A file is not one that can be read here; the message says what was found in it."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What was read.

    Attributes:
      layers: the weights of each layer that has some, float32, in order.
      model_config: the description of the network, if it is there.
      keras_version: the version that saved it, if it is there.
    """

    layers: list[list[np.ndarray]]
    model_config: str | None
    keras_version: str | None


def h5py_of() -> Any:
    """The module h5py.

    Raises:
      RunError: it is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise RunError(
            "h5py is not installed, which Keras's files need; install it: python -m pip install 'jaxlm[keras]'"
        ) from error
    return h5py


def read_apart(content: bytes) -> Found:
    """`read` in a process of its own.

    Raises:
      Foreign: as `read` does, or the library crashed, or was stopped.
    """
    h5py_of()
    seconds = READING_SECONDS + len(content) // MEGABYTE
    # Isolated, with this process's paths, so that no module is imported that happens to lie in the current folder.
    arguments = [sys.executable, "-I", "-c", _START, *sys.path, str(Path(__file__).parents[2])]
    try:
        done = subprocess.run(arguments, input=content, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise Foreign(f"found a file that HDF5 cannot read in {seconds} s; save the model again") from error
    header, _, data = done.stdout.partition(b"\n")
    if done.returncode or not header:
        raise Foreign("found a file on which HDF5 fails; save the model again")
    values = json.loads(header)
    if "error" in values:
        raise Foreign(values["error"])
    layers: list[list[np.ndarray]] = []
    at = 0
    for shapes in values["shapes"]:
        layers.append([])
        for shape in shapes:
            size = math.prod(shape)
            layers[-1].append(np.frombuffer(data, "<f4", size, at).reshape(shape))
            at += 4 * size
    return Found(layers, values["model_config"], values["keras_version"])


_START = "import sys; sys.path[:] = sys.argv[1:]; from jaxlm.runs.hdf5 import serve; serve()"


def serve() -> None:
    """Reads a file from standard input; writes a line of JSON, and the arrays one after another, to standard output."""
    content = sys.stdin.buffer.read()
    h5py_of()  # Before memory is limited, so that it and its threads do not count.
    _limit_memory(MOST_CLAIMED * len(content) + SPARE_MEMORY)
    try:
        found = read(content)
    except Foreign as error:
        sys.stdout.buffer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    shapes = [[leaf.shape for leaf in layer] for layer in found.layers]
    about = {"shapes": shapes, "model_config": found.model_config, "keras_version": found.keras_version}
    sys.stdout.buffer.write(json.dumps(about).encode() + b"\n")
    for layer in found.layers:
        for leaf in layer:
            sys.stdout.buffer.write(leaf.astype("<f4", copy=False).data)


def _limit_memory(more: int) -> None:
    """Limits this process to so many bytes more than it has, where the system says how many that is: on Linux."""
    try:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + more, has + more))
    except (AttributeError, OSError, ValueError):  # Windows has no limits, and a lower one must not be raised.
        pass


def read(content: bytes) -> Found:
    """Reads a file of Keras in HDF5.

    Raises:
      Foreign: it is not one, or is damaged.
    """
    h5py = h5py_of()
    reader = _Reader(h5py, len(content))
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            text, version = reader.text(file, "model_config"), reader.text(file, "keras_version")
            return Found(reader.layers(file), text, version)
    except Foreign:
        raise
    except FAILURES as error:
        found = first_line(error)[:100]
        raise Foreign(f"found a file that HDF5 cannot read ({found}); save the model again") from error


class _Reader:
    """Reads the arrays of an HDF5 file, of `size` bytes, without following links, and not more than it may hold."""

    def __init__(self, h5py: Any, size: int) -> None:
        self._h5py, self._left = h5py, MOST_CLAIMED * size + MEGABYTE

    def layers(self, file: Any) -> list[list[np.ndarray]]:
        """The weights of each layer that has some, in order."""
        for name in ("layers", "_layer_checkpoint_dependencies"):
            if _has(file, name):
                return self._of_keras_3(self._member(file, name))
        top = self._member(file, "model_weights") if _has(file, "model_weights") else file
        if "layer_names" not in top.attrs:
            raise Foreign("found no layers; expected a model, or weights, that Keras saved")
        found = []
        for layer in self._names(top, "layer_names"):
            group = self._member(top, layer)
            found.append([self._array(group, name) for name in self._names(group, "weight_names")])
        return [leaves for leaves in found if leaves]

    def _of_keras_3(self, top: Any) -> list[list[np.ndarray]]:
        if len(top) > LAYERS:
            raise Foreign(f"found {len(top):,} layers, expected {LAYERS} at most")
        found: dict[tuple[int, int], list[np.ndarray]] = {}
        order = {"embedding": 0, "lstm": 1, "dense": 2}
        for name in top:
            kind, number = re.fullmatch(r"(.*?)(?:_(\d{1,6}))?", name, re.DOTALL).groups()  # type: ignore[union-attr]
            if kind in order:
                place = f"{name}/cell/vars" if kind == "lstm" else f"{name}/vars"
                count = min(len(self._member(top, place)), LAYERS)
                found[order[kind], int(number or 0)] = [self._array(top, f"{place}/{leaf}") for leaf in range(count)]
            elif kind not in ("dropout", "activation", "input_layer"):
                raise Foreign(f"found a layer {name[:60]!r}, {KNOWN_LAYERS}")
        return [leaves for _, leaves in sorted(found.items())]

    def text(self, group: Any, name: str) -> str | None:
        """An attribute that is a text; None if there is none."""
        if name not in group.attrs:
            return None
        self._check_attribute(group, name)
        value = group.attrs[name]
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return value if isinstance(value, str) else None

    def _names(self, group: Any, name: str) -> list[str]:
        """An attribute that is a list of names."""
        if name not in group.attrs:
            return []
        self._check_attribute(group, name)
        values = np.atleast_1d(group.attrs[name])
        if values.ndim > 1 or len(values) > LAYERS:
            raise Foreign(f"found {values.size:,} {name}, expected {LAYERS} at most")
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]

    def _check_attribute(self, group: Any, name: str) -> None:
        about = group.attrs.get_id(name)
        self._take(math.prod(about.shape) * max(about.dtype.itemsize, 16), name)

    def _member(self, group: Any, path: str) -> Any:
        """What is at a path below a group, step by step, none of which may be a link to elsewhere."""
        parts = [part for part in path.split("/") if part]
        if not parts or len(parts) > 16:
            raise Foreign(f"found a layer with the path {path[:40]!r}, expected one of at most 16 groups")
        for part in parts:
            if not isinstance(group, self._h5py.Group) or not _has(group, part):
                raise Foreign(f"its {path[:80]!r} is missing; save the model again")
            if not isinstance(group.get(part, getlink=True), self._h5py.HardLink):
                raise Foreign(f"its {path[:80]!r} is a link to elsewhere, which is not followed")
            group = group[part]
        return group

    def _array(self, group: Any, path: str) -> np.ndarray:
        array = self._member(group, path)
        if not isinstance(array, self._h5py.Dataset) or array.dtype.kind != "f" or array.ndim not in (1, 2):
            raise Foreign(f"its {path[:80]!r} is no array of weights")
        plist = array.id.get_create_plist()
        filters = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
        if array.is_virtual or array.external or not filters <= FILTERS:
            raise Foreign(f"its {path[:80]!r} is not stored in the file itself, or not as Keras stores it")
        whole = max(array.size, math.prod(array.chunks or ()) if array.chunks else 0)
        # As stored, and as float32.
        self._take(whole * (array.dtype.itemsize + 4), path)
        return cast(np.ndarray, np.asarray(array[()], np.float32))

    def _take(self, size: int, name: str) -> None:
        self._left -= size
        if self._left < 0:
            raise Foreign(f"its {name[:80]!r} claims to be far larger than the file; save the model again")


def _has(group: Any, name: str) -> bool:
    """Whether a group has a member, which `in` would open, wherever it leads."""
    return bool(group.id.links.exists(name.encode("utf-8", "surrogateescape")))
