"""The LSTM's equations in NumPy, float64, one gate and one step at a time."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(params, carry, inputs):
    """One layer: (c, h) of [B, H] and inputs [B, T, D] to the last (c, h) and outputs [B, T, H]."""
    params = {
        gate: {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()} for gate, leaves in params.items()
    }
    c, h = (np.asarray(part, np.float64) for part in carry)
    outputs = []
    for t in range(inputs.shape[1]):
        x = np.asarray(inputs[:, t], np.float64)

        def gate(name, x=x, h=h):
            return x @ params["i" + name]["kernel"] + h @ params["h" + name]["kernel"] + params["h" + name]["bias"]

        c = sigmoid(gate("f")) * c + sigmoid(gate("i")) * np.tanh(gate("g"))
        h = sigmoid(gate("o")) * np.tanh(c)
        outputs.append(h)
    return (c, h), np.stack(outputs, 1)


def logits(params, tokens, vocabulary):
    """The whole model from a zero carry: tokens [B, T] to logits [B, T, V]."""
    states = np.eye(vocabulary)[np.asarray(tokens)]
    layers = sorted(name for name in params if name.startswith("lstm_"))
    for name in layers:
        hidden = params[name]["hi"]["kernel"].shape[0]
        zeros = np.zeros((len(tokens), hidden))
        _, states = lstm(params[name], (zeros, zeros), states)
    return states @ np.asarray(params["dense"]["kernel"], np.float64) + np.asarray(params["dense"]["bias"], np.float64)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
