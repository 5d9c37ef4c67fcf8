"""The language model: one-hot or embedded tokens, LSTM layers, a softmax over the vocabulary.

Shapes: B batch, T time, V vocabulary, H hidden, D a layer's input width.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.config import Impl, TrainConfig
from jaxlm.nn import lstm

Params = dict[str, Any]
Carry = tuple[lstm.Carry, ...]
"""One (c, h) of float[B, H] a layer."""

glorot_uniform = nn.initializers.glorot_uniform()
orthogonal = nn.initializers.orthogonal()
normal = nn.initializers.normal(0.3)


def init_layer(key: jax.Array, width: int, hidden: int) -> Params:
    """Keras's initial weights of an LSTM layer, under the names of Flax's LSTM cell.

    The input kernel (D, 4H) is Glorot-uniform and the recurrent kernel U (H, 4H) orthogonal, U Uᵀ = I, each as
    one matrix that is then split by gate. (Flax draws each gate alone, so that U Uᵀ = 4 I.) Biases are 0, the
    forget gate's 1.

    Source: keras/layers/recurrent.py, Keras 2.2.4: LSTM, LSTMCell.build.
    """
    input_key, recurrent_key = jax.random.split(key)
    inputs = jnp.split(glorot_uniform(input_key, (width, 4 * hidden)), 4, axis=1)
    recurrent = jnp.split(orthogonal(recurrent_key, (hidden, 4 * hidden)), 4, axis=1)
    params: Params = {}
    for gate, kernel, recurrent_kernel in zip(lstm.GATES, inputs, recurrent, strict=True):
        bias = jnp.full(hidden, 1.0 if gate == "f" else 0.0, jnp.float32)
        params[f"i{gate}"] = {"kernel": kernel}
        params[f"h{gate}"] = {"kernel": recurrent_kernel, "bias": bias}
    return params


class LanguageModel(nn.Module):
    """The distribution of the next token, given those before.

    Attributes:
      vocabulary: V, distinct tokens.
      hidden: H, units of each layer.
      layers: LSTM layers.
      embedding: numbers that stand for a token where it enters the first layer; 0: one-hot.
      dropout: share of units dropped between layers in training, the same at all T steps.
      output_dropout: share of units dropped before the softmax in training, the same at all T steps.
      recurrent_dropout: share of the recurrent kernels' weights dropped in training (DropConnect: Merity et al. 2018,
        arXiv:1708.02182).
      impl: the recurrence, by its name in `lstm.IMPLS`: same parameters, same numbers. With `scan`, the reference,
        generation draws as it goes, too.
    """

    vocabulary: int
    hidden: int
    layers: int = 1
    embedding: int = 0
    dropout: float = 0.0
    output_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    impl: str = "scan"

    def setup(self) -> None:
        widths = [self.embedding or self.vocabulary] + [self.hidden] * (self.layers - 1)
        self.lstm = [self.param(f"lstm_{i}", init_layer, width, self.hidden) for i, width in enumerate(widths)]
        if self.embedding:
            self.embed = nn.Embed(self.vocabulary, self.embedding, embedding_init=normal)
        self.drop = nn.Dropout(self.dropout, broadcast_dims=(1,))
        self.drop_output = nn.Dropout(self.output_dropout, broadcast_dims=(1,))
        self.drop_weights = nn.Dropout(self.recurrent_dropout)
        self.dense = nn.Dense(self.vocabulary, kernel_init=glorot_uniform)

    def __call__(self, tokens: jax.Array, carry: Carry, train: bool = False) -> tuple[jax.Array, Carry]:
        """The logits at every position: `logits(states(...))`.

        Returns:
          (float32[B, T, V], carry after the last token).
        """
        states, carry = self.states(tokens, carry, train)
        return self.logits(states, train), carry

    def states(self, tokens: jax.Array, carry: Carry, train: bool = False) -> tuple[jax.Array, Carry]:
        """The hidden states of the last layer, undropped.

        Args:
          tokens: int[B, T], ids in [0, V).
          carry: the states before the first token; `initial_carry` at the start of a text.
          train: whether to drop units and weights, which takes a `dropout` rng.

        Returns:
          (float32[B, T, H], carry after the last token).
        """
        recurrence = lstm.IMPLS[self.impl]
        first, *others = self.lstm
        states = tokens  # The first layer takes ids for one-hots.
        if self.embedding:
            if tokens.shape[1] == 1:
                states = self.embed(tokens)
            else:
                first = self._embedded(first)
        after = []
        for i, (params, before) in enumerate(zip([first, *others], carry, strict=True)):
            if i:
                states = self.drop(states, deterministic=not train)
            layer_carry, states = recurrence(self._thinned(params, train), before, states)
            after.append(layer_carry)
        return states, tuple(after)

    def _embedded(self, params: Params) -> Params:
        """The first layer's parameters for one-hots: a row of the embedding times a kernel is a row of their product.

        For many tokens, picking rows of it is far less work than multiplying each.
        """
        kernels = {f"i{gate}": {"kernel": self.embed.embedding @ params[f"i{gate}"]["kernel"]} for gate in lstm.GATES}
        return {**params, **kernels}

    def _thinned(self, params: Params, train: bool) -> Params:
        """A layer's parameters, less the recurrent weights that are dropped in this step."""

        def thin(kernel: jax.Array) -> jax.Array:
            return self.drop_weights(kernel, deterministic=not train)

        recurrent = {f"h{gate}": params[f"h{gate}"] for gate in lstm.GATES}
        thinned = {name: {**leaves, "kernel": thin(leaves["kernel"])} for name, leaves in recurrent.items()}
        return {**params, **thinned}

    def logits(self, states: jax.Array, train: bool = False) -> jax.Array:
        """The unnormalised log-probabilities of the next token.

        Args:
          states: float32[B, K, H], or any float32[..., H] where not `train`.
          train: as in `states`.

        Returns:
          float32[..., V].
        """
        return self.dense(self.drop_output(states, deterministic=not train))

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        """The carry at the start of a text: zeros."""
        zeros = jnp.zeros((batch, self.hidden))
        return ((zeros, zeros),) * self.layers

    @nn.nowrap
    def init_params(self, key: jax.Array) -> Params:
        """Initial parameters: Keras's for every layer (`init_layer`), and for the softmax's too."""
        return self.init(key, jnp.zeros((1, 1), jnp.int32), self.initial_carry(1))["params"]


def build_model(config: TrainConfig, vocabulary: int, impl: Impl = "auto") -> LanguageModel:
    """The network of a run.

    Raises:
      InputError: this machine cannot do `impl`.
    """
    return LanguageModel(vocabulary, impl=lstm.choose(impl), **dataclasses.asdict(config.model))
