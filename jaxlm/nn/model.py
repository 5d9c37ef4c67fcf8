"""The language model: one-hot or embedded tokens, recurrent layers, a softmax over the vocabulary.

Where the network takes counts (`ModelConfig.ngram`), what n-grams say of the next token enters twice: at the input,
beside the token; and at the output, where its logarithm is added to the logits, times a gate that depends on the state
and on how often the contexts were counted. So the network learns what n-grams do not know, and when to trust them.

Shapes: B batch, T time, V vocabulary, H hidden, K the n-grams' order.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import Impl, ModelConfig, Precision, TrainConfig
from jaxlm.nn import lstm
from jaxlm.nn.counts import Prior
from jaxlm.nn.products import linear

Params = dict[str, Any]
Carry = tuple[lstm.LayerCarry, ...]
"""The carry of each layer."""

normal = nn.initializers.normal(0.3)


class LanguageModel(nn.Module):
    """The distribution of the next token, given the previous ones.

    Attributes:
      vocabulary: V, distinct tokens.
      config: size, embedding and dropout.
      impl: the implementation of the recurrence, a key of `lstm.IMPLS`; all share parameters and agree up to rounding.
        With `scan`, the reference, generation draws its random numbers token by token, too.
      precision: of the matrix products.
      line_end: the token with which a document begins, if lines are documents: all before it is forgotten. None if the
        state is carried on.
    """

    vocabulary: int
    config: ModelConfig = ModelConfig()
    impl: str = "scan"
    precision: Precision = "float32"
    line_end: int | None = None

    def setup(self) -> None:
        config = self.config
        widths = [config.embedding or self.vocabulary] + [config.hidden] * (config.layers - 1)
        self.lstm = [self.param(f"lstm_{i}", lstm.init_params, width, config.hidden) for i, width in enumerate(widths)]
        if config.embedding:
            self.embed = nn.Embed(self.vocabulary, config.embedding, embedding_init=normal)
        # The same units are dropped at all T steps (Gal and Ghahramani 2016, arXiv:1512.05287).
        self.drop = nn.Dropout(config.dropout, broadcast_dims=(1,))
        self.drop_output = nn.Dropout(config.output_dropout, broadcast_dims=(1,))
        # DropConnect (Merity et al. 2018, arXiv:1708.02182).
        self.drop_weights = nn.Dropout(config.recurrent_dropout)
        self.dense = nn.Dense(
            self.vocabulary,
            kernel_init=lstm.glorot_uniform,
            dot_general=lambda states, kernel, *_, **__: linear(states, kernel, self.precision),
        )
        # A finished network that n-grams were mixed into does not read them.
        reads_prior = config.ngram and (self.is_initializing() or self.has_variable("params", "ngram_input"))
        self.ngram_input = None
        if reads_prior:
            self.ngram_input = self.param("ngram_input", nn.initializers.zeros, (self.vocabulary, widths[0]))
        if config.ngram:
            self.ngram_gate = self.param("ngram_gate", init_gate, config.hidden, config.ngram)

    def __call__(
        self, tokens: jax.Array, carry: Carry, train: bool = False, prior: Prior | None = None
    ) -> tuple[jax.Array, Carry]:
        """The logits at every position: `logits(states(...))`.

        Returns:
          (float32[B, T, V], carry after the last token).
        """
        states, carry = self.states(tokens, carry, train, prior)
        return self.logits(states, train, prior), carry

    def states(
        self,
        tokens: jax.Array,
        carry: Carry,
        train: bool = False,
        prior: Prior | None = None,
        resets: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        """The hidden states of the last layer, before its dropout.

        Args:
          tokens: int[B, T], ids in [0, V).
          carry: the state before the first token; `initial_carry` at the start of a text.
          train: whether to apply dropout and DropConnect, which need a `dropout` rng.
          prior: what n-grams say of the token after each, of leading shape (B, T); only for a network with counts.
          resets: bool[B, T], the tokens before which the state is reset to zero; None for those that are `line_end`.

        Returns:
          (float32[B, T, H], carry after the last token).
        """
        if resets is None and self.line_end is not None:
            resets = tokens == self.line_end
        first, *others = self.lstm
        states = tokens  # The first layer takes ids as one-hot vectors.
        if self.ngram_input is not None:
            assert prior is not None
            states = jax.nn.one_hot(tokens, self.vocabulary, dtype=jnp.float32)
            if self.config.embedding:
                states = linear(states, self.embed.embedding, self.precision)
            states = states + linear(prior.probabilities, self.ngram_input, self.precision)
        elif self.config.embedding:
            if tokens.shape[1] == 1:
                states = self.embed(tokens)
            else:
                first = lstm.fold_embedding(first, self.embed.embedding, self.precision)
        after = []
        for i, (params, before) in enumerate(zip([first, *others], carry, strict=True)):
            if i:
                states = self.drop(states, deterministic=not train)
            params = lstm.map_recurrent(lambda kernel: self.drop_weights(kernel, deterministic=not train), params)
            layer_carry, states = lstm.IMPLS[self.impl](
                params, before, states, self.precision, resets, self.config.gates
            )
            after.append(layer_carry)
        return states, tuple(after)

    def logits(self, states: jax.Array, train: bool = False, prior: Prior | None = None) -> jax.Array:
        """The unnormalised log-probabilities of the next token.

        Args:
          states: float32[B, K, H], or any float32[..., H] unless `train`.
          train: as in `states`.
          prior: as in `states`, of leading shape (B, K), or as the states have it.

        Returns:
          float32[..., V].
        """
        states = self.drop_output(states, deterministic=not train)
        logits = self.dense(states)
        if not self.config.ngram:
            return logits
        assert prior is not None
        gate = self.ngram_gate
        known = jnp.log1p(prior.totals.astype(jnp.float32))
        weight = gate["bias"][0] + linear(states, gate["state"], "float32") + linear(known, gate["totals"], "float32")
        return logits + weight * jnp.log(prior.probabilities)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        """The carry at the start of a text."""
        return (lstm.initial_carry(batch, self.config.hidden),) * self.config.layers

    @nn.nowrap
    def last_states(self, carry: Carry) -> jax.Array:
        """The hidden state of the last layer, float32[B, H], after the token that left this carry."""
        return lstm.last_output(carry[-1])

    @nn.nowrap
    def abstract_params(self) -> Params:
        """The shapes and types of the parameters, without computing them."""
        return jax.eval_shape(lambda: self.init_params(jax.random.key(0)))

    @nn.nowrap
    def init_params(self, key: jax.Array) -> Params:
        """Initial parameters; those of the LSTM and softmax layers as in Keras."""
        prior = None
        if self.config.ngram:
            prior = Prior(jnp.ones((1, 1, self.vocabulary)), jnp.zeros((1, 1, self.config.ngram + 1), jnp.int32))

        def create(model: LanguageModel) -> None:
            """Uses what has parameters besides those of `setup`, without the recurrence, which takes long to trace."""
            if model.config.embedding:
                model.embed(jnp.zeros(1, jnp.int32))
            model.logits(jnp.zeros((1, 1, model.config.hidden)), False, prior)

        return self.init(key, method=create)["params"]


class Average(LanguageModel):
    """The geometric mean of the distributions of several networks over the same vocabulary, normalised again.

    Its carries, its n-grams and what they say are tuples, with an element for each network: None for the n-grams of
    one that takes none. Of a network that was given counts and one that was not, it is better than the mean of the
    probabilities (benchmarks/SWEEPS.md): each can veto what it knows to be wrong (Hinton 2002, products of experts).

    Attributes:
      members: the networks, their implementation that of the average.
      weights: of each; they sum to 1.
    """

    members: tuple[LanguageModel, ...] = ()
    weights: tuple[float, ...] = ()

    def setup(self) -> None:
        """Has no parameters but those of the members, `members_0` and so on."""

    def states(
        self, tokens: jax.Array, carry: Any, train: bool = False, prior: Any = None, resets: jax.Array | None = None
    ) -> tuple[Any, Any]:
        """As in LanguageModel, with a tuple for states, too."""
        each = [
            member.states(tokens, carry, train, prior, resets)
            for member, carry, prior in zip(self.members, carry, prior, strict=True)
        ]
        states, carries = zip(*each, strict=True)
        return states, carries

    def logits(self, states: Any, train: bool = False, prior: Any = None) -> jax.Array:
        """The weighted mean of the members' logits."""
        each = [
            weight * member.logits(states, train, prior)
            for member, weight, states, prior in zip(self.members, self.weights, states, prior, strict=True)
        ]
        return jnp.stack(each).sum(0)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Any:
        """As in LanguageModel."""
        return tuple(member.initial_carry(batch) for member in self.members)


def init_gate(_: jax.Array, hidden: int, order: int) -> Params:
    """The weights of the n-grams at the output: at first 1, whatever the state and the counts."""
    return {"bias": jnp.ones(1), "state": jnp.zeros((hidden, 1)), "totals": jnp.zeros((order + 1, 1))}


NEW_SHARE = 0.01
"""The most probability that all new tokens together are given, in any context, when a vocabulary is extended."""


def extended(params: Params, fresh: Params) -> Params:
    """A trained network's parameters for a vocabulary with more tokens, which follow the others.

    What enters the network for a new token has the initial value. Its logit is the mean of the others, lowered by as
    much as it takes for the new tokens to have less than NEW_SHARE together: since log-sum-exp is at least the mean
    plus log V, that holds in any context. All other tokens lose the same share of their probability, and nothing else.

    Args:
      params: the network's, of NumPy arrays.
      fresh: initial parameters for the larger vocabulary, of NumPy arrays.
    """

    def grown(old: Any, new: Any) -> np.ndarray:
        grown = np.array(new)
        grown[tuple(map(slice, old.shape))] = old
        return grown

    whole: Params = jax.tree.map(grown, params, fresh)
    known = len(params["dense"]["bias"])
    if more := len(whole["dense"]["bias"]) - known:
        lower = np.log(NEW_SHARE * known / more)
        whole["dense"]["kernel"][:, known:] = params["dense"]["kernel"].mean(1, keepdims=True)
        whole["dense"]["bias"][known:] = params["dense"]["bias"].mean() + lower
    return whole


def count_parameters(params: Params) -> int:
    """How many numbers a model has learned, or will learn."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def build_model(
    config: TrainConfig,
    vocabulary: int,
    impl: Impl = "auto",
    precision: Precision = "float32",
    line_end: int | None = None,
) -> LanguageModel:
    """The network of a run.

    Raises:
      InputError: this machine cannot run `impl`.
    """
    return LanguageModel(vocabulary, config.model, lstm.choose(impl, config.model.gates), precision, line_end)
