"""Helpers that several tests share."""

import json
import signal

import jax
import numpy as np
from jax.experimental import rnn

import jaxlm
from jaxlm.runs.reporter import Reporter

TEXT = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs! " * 12
"""A text of a thousand characters."""


class SignalAt(Reporter):
    """Sends signals to its own process once a step is reported."""

    def __init__(self, step, *signals):
        self._step, self._signals = step, signals

    def step(self, step, loss):
        if step == self._step:
            for number in self._signals:
                signal.raise_signal(number)


def emulate_cudnn(monkeypatch):
    """Puts JAX's own reference, which reads the same weights, in place of NVIDIA's library."""

    def reference(x, h, c, weights, lengths, width, hidden, layers, dropout, bidirectional, precision):
        assert rnn._lstm_cudnn_allow_tf32(precision) is False
        assert x.shape[1] > 1  # One step is left to `fused`.
        unpacked = rnn.unpack_lstm_weights(weights, width, hidden, layers, bidirectional)
        return rnn.lstm_ref(x, h, c, *unpacked, lengths, width, hidden, layers, dropout, bidirectional)

    monkeypatch.setattr(rnn, "lstm", reference)


def assert_same(a, b):
    """The same types, all numbers the same bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def assert_same_run(a, b):
    """Last checkpoints and metrics are the same; only the clock may differ."""
    assert_same(*(tuple(jaxlm.Run.open(path).restore()[0]) for path in (a, b)))
    assert jaxlm.Run.open(a).restore()[1] == jaxlm.Run.open(b).restore()[1]
    assert metrics(a) == metrics(b)


def metrics(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def steps(path):
    """The checkpoints, and whatever else has a number for a name."""
    return sorted(int(entry.name) for entry in path.iterdir() if entry.name.isdecimal())


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
