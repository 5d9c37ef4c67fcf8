"""A network's parameters as PyTorch and Keras lay them out: arrays in, arrays out.

All three order the gates alike: input, forget, candidate, output (`lstm.GATES`). Flax's LSTM cell, whose names we have,
has a kernel for each gate and multiplies from the right; Keras puts the four kernels side by side; PyTorch stacks their
transposes, and adds a second bias.

Shapes: V vocabulary, D what enters a layer, H hidden.
"""

from collections.abc import Sequence

import numpy as np

from jaxlm.nn.lstm import GATES, LayerParams
from jaxlm.nn.model import Params


def _layers(params: Params) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each LSTM layer, gates side by side: W, float[D, 4H]; U, float[H, 4H]; and b, float[4H]."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while (name := f"lstm_{len(found)}") in params:
        layer = params[name]
        inputs = np.concatenate([layer[f"i{gate}"]["kernel"] for gate in GATES], 1)
        recurrent = np.concatenate([layer[f"h{gate}"]["kernel"] for gate in GATES], 1)
        found.append((inputs, recurrent, np.concatenate([layer[f"h{gate}"]["bias"] for gate in GATES])))
    return found


def _layer(inputs: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> LayerParams:
    """The parameters of an LSTM layer; undoes `_layers`."""
    params: LayerParams = {}
    for gate, *parts in zip(GATES, np.split(inputs, 4, 1), np.split(recurrent, 4, 1), np.split(bias, 4), strict=True):
        kernel, recurrent_kernel, gate_bias = map(np.ascontiguousarray, parts)
        params[f"i{gate}"] = {"kernel": kernel}
        params[f"h{gate}"] = {"kernel": recurrent_kernel, "bias": gate_bias}
    return params


def to_torch(params: Params) -> dict[str, np.ndarray]:
    """The state dict of a module whose parts are `embedding`, if there is one, `lstm` and `linear`.

    Source: PyTorch's documentation of torch.nn.LSTM, torch.nn.Linear and torch.nn.Embedding.
    """
    state = {"embedding.weight": params["embed"]["embedding"]} if "embed" in params else {}
    for number, (inputs, recurrent, bias) in enumerate(_layers(params)):
        state[f"lstm.weight_ih_l{number}"] = inputs.T
        state[f"lstm.weight_hh_l{number}"] = recurrent.T
        state[f"lstm.bias_ih_l{number}"] = bias
        state[f"lstm.bias_hh_l{number}"] = np.zeros_like(bias)
    state["linear.weight"] = params["dense"]["kernel"].T
    state["linear.bias"] = params["dense"]["bias"]
    return {name: np.ascontiguousarray(leaf) for name, leaf in state.items()}


def to_keras(params: Params) -> list[list[np.ndarray]]:
    """The weights of each Keras layer: of an Embedding, if there is one, of each LSTM, and of a Dense."""
    embedding = [[params["embed"]["embedding"]]] if "embed" in params else []
    dense = [params["dense"]["kernel"], params["dense"]["bias"]]
    return [*embedding, *(list(layer) for layer in _layers(params)), dense]


def from_keras(layers: Sequence[Sequence[np.ndarray]]) -> Params:
    """Undoes `to_keras`; also takes LSTM layers without a bias, and those of `CuDNNLSTM`.

    Raises:
      ValueError: the shapes are none of such layers; the message names the layer's number.
    """
    params: Params = {}
    *recurrent, last = [[np.asarray(leaf, np.float32) for leaf in layer] for layer in layers]
    if recurrent and _shapes(recurrent[0], 2):
        params["embed"] = {"embedding": recurrent.pop(0)[0]}
    first = len(layers) - 1 - len(recurrent)
    width = params["embed"]["embedding"].shape[1] if "embed" in params else None
    for number, layer in enumerate(recurrent):
        if _shapes(layer, 2, 2):
            layer = [*layer, np.zeros(layer[1].shape[1:], np.float32)]
        hidden = layer[1].shape[0] if _shapes(layer, 2, 2, 1) else 0
        shapes = [leaf.shape[1:] if leaf.ndim == 2 else leaf.shape for leaf in layer]
        if not hidden or shapes[:2] != [(4 * hidden,)] * 2 or layer[0].shape[0] != (width or layer[0].shape[0]):
            raise ValueError(f"layer {first + number + 1} has weights that are none of an LSTM")
        if shapes[2] == (8 * hidden,):
            layer = _of_cudnn(*layer)
        elif shapes[2] != (4 * hidden,):
            raise ValueError(f"layer {first + number + 1} has a bias that is none of an LSTM")
        params[f"lstm_{number}"], width = _layer(*layer), hidden
    if not _shapes(last, 2, 1) or last[0].shape != (width, *last[1].shape) or not recurrent:
        raise ValueError(f"layer {len(layers)} has weights that are none of a Dense layer after an LSTM")
    params["dense"] = {"kernel": last[0], "bias": last[1]}
    vocabulary = len(params["embed"]["embedding"] if "embed" in params else params["lstm_0"]["ii"]["kernel"])
    if vocabulary != len(last[1]):
        raise ValueError(f"{vocabulary:,} characters enter it, but it predicts {len(last[1]):,}")
    return params


def _shapes(layer: Sequence[np.ndarray], *dimensions: int) -> bool:
    """Whether a layer has weights of so many dimensions, all of a size."""
    return [leaf.ndim for leaf in layer] == list(dimensions) and all(leaf.size for leaf in layer)


def _of_cudnn(inputs: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """An LSTM's weights from a CuDNNLSTM's: each gate's are stored as cuDNN has them, transposed; two biases are added.

    Source: `_convert_rnn_weights` in keras/engine/saving.py, Keras 2.2.4.
    """
    kernels = [gate.reshape(gate.shape[::-1]).T for gate in map(np.ascontiguousarray, np.split(inputs, 4, 1))]
    recurrents = [gate.T for gate in np.split(recurrent, 4, 1)]
    return [np.concatenate(kernels, 1), np.concatenate(recurrents, 1), np.add(*np.split(bias, 2))]
