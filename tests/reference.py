"""The LSTM's equations in NumPy, float64, one gate and one step at a time; and an n-gram's, in dictionaries."""

import collections

import numpy as np

BEGINNING = "beginning"


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def keras_2_hard_sigmoid(x):
    return np.minimum(np.maximum(0.2 * x + 0.5, 0.0), 1.0)


def lstm(params, carry, inputs, sigmoid=sigmoid):
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
    rows = params["embed"]["embedding"] if "embed" in params else np.eye(vocabulary)
    states = np.asarray(rows, np.float64)[np.asarray(tokens)]
    layers = sorted(name for name in params if name.startswith("lstm_"))
    for name in layers:
        hidden = params[name]["hi"]["kernel"].shape[0]
        zeros = np.zeros((len(tokens), hidden))
        _, states = lstm(params[name], (zeros, zeros), states)
    return states @ np.asarray(params["dense"]["kernel"], np.float64) + np.asarray(params["dense"]["bias"], np.float64)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class KneserNey:
    """An n-gram straight from the formulas, in dictionaries; `missing` is a position whose n-grams are not counted."""

    def __init__(self, text, vocabulary, order, missing=None, discounts=None):
        self.vocabulary, self.order = vocabulary, order
        occurrences, neighbours = collections.Counter(), collections.defaultdict(set)
        for end in range(len(text)):
            for begin in range(max(end - order, 0), end + 1):
                if end != missing:
                    string = tuple(text[begin : end + 1])
                    occurrences[string] += 1
                    neighbours[string].add(text[begin - 1] if begin else BEGINNING)
        self.counts = {
            string: occurrences[string] if len(string) == order + 1 else len(neighbours[string])
            for string in occurrences
        }
        self.discounts = discounts or [self.discount(length) for length in range(1, order + 2)]
        self.continuations = collections.defaultdict(dict)
        for string, count in self.counts.items():
            self.continuations[string[:-1]][string[-1]] = count

    def discount(self, length):
        n = collections.Counter(count for string, count in self.counts.items() if len(string) == length)
        result = []
        for count in (1, 2, 3):
            valid = n[1] and n[count]
            value = count - (count + 1) * n[1] / (n[1] + 2 * n[2]) * n[count + 1] / n[count] if valid else 0
            result.append(value if 0 < value < count else count / 2)
        return result

    def total(self, context):
        return sum(self.continuations.get(context, {}).values())

    def row(self, context):
        """The distribution after a context, of any length, as a list."""
        context = tuple(context)[max(len(context) - self.order, 0) :]
        below = self.row(context[1:]) if context else [1 / self.vocabulary] * self.vocabulary
        counts = self.continuations.get(context)
        if not counts:
            return below
        discounts = [0, *self.discounts[len(context)]]
        taken = {token: discounts[min(count, 3)] for token, count in counts.items()}
        total = sum(counts.values())
        backoff = sum(taken.values()) / total
        return [
            max(counts.get(token, 0) - taken.get(token, 0), 0) / total + backoff * share
            for token, share in enumerate(below)
        ]
