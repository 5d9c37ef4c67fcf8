"""The model: its size, its initial weights, its equations, and Flax's names for its parameters."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from reference import logits as numpy_logits

from jaxlm import lstm
from jaxlm.model import LanguageModel

V, H = 57, 128


@functools.cache
def initial(model, seed):
    return jax.jit(model.init_params)(jax.random.key(seed))


def book_params():
    return initial(LanguageModel(V, H), 7)


def joint(layer, prefix, leaf="kernel"):
    return np.concatenate([np.asarray(layer[prefix + gate][leaf]) for gate in lstm.GATES], -1)


def test_the_book_s_model_has_102_585_parameters():
    assert sum(leaf.size for leaf in jax.tree.leaves(book_params())) == 102_585


def test_the_recurrent_kernel_is_orthogonal_as_one_matrix():
    recurrent = joint(book_params()["lstm_0"], "h")
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(H), atol=1e-5)
    block = recurrent[:, :H]
    assert np.abs(block @ block.T - np.eye(H)).max() > 0.5


def test_input_kernels_are_glorot_uniform_as_one_matrix():
    params = book_params()
    for kernel, fan_out in ((joint(params["lstm_0"], "i"), 4 * H), (params["dense"]["kernel"], V)):
        limit = np.sqrt(6 / (kernel.shape[0] + fan_out))
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)
    blocks = np.split(joint(params["lstm_0"], "i"), 4, 1)
    assert not np.array_equal(blocks[0], blocks[1])


def test_biases_are_zero_and_the_forget_gate_s_one():
    params = book_params()
    np.testing.assert_array_equal(joint(params["lstm_0"], "h", "bias"), np.repeat([0, 1, 0, 0], H))
    np.testing.assert_array_equal(params["dense"]["bias"], np.zeros(V))


def test_the_keys_of_layers_differ():
    params = initial(LanguageModel(H, H, 2), 0)
    assert not np.array_equal(params["lstm_0"]["hi"]["kernel"], params["lstm_1"]["hi"]["kernel"])


def test_two_layers_are_the_equations():
    model = LanguageModel(9, 6, 2)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape),
        initial(model, 1),
    )
    tokens = np.random.default_rng(0).integers(0, 9, (4, 30))
    logits, _ = model.apply({"params": params}, tokens, model.initial_carry(4))
    np.testing.assert_allclose(logits, numpy_logits(params, tokens, 9), atol=2e-5)


def test_the_weights_load_into_a_plain_scan_over_flax_s_cell():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            cell = nn.scan(
                nn.LSTMCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
            )
            zeros = jnp.zeros((len(tokens), H))
            _, states = cell(H, name="lstm_0")((zeros, zeros), jax.nn.one_hot(tokens, V))
            return nn.Dense(V, name="dense")(states)

    params = book_params()
    tokens = np.random.default_rng(1).integers(0, V, (2, 60))
    assert jax.tree.structure(Plain().init(jax.random.key(0), tokens)["params"]) == jax.tree.structure(params)
    model = LanguageModel(V, H)
    logits, _ = model.apply({"params": params}, tokens, model.initial_carry(2))
    np.testing.assert_allclose(Plain().apply({"params": params}, tokens), logits, atol=1e-5)


def test_logits_know_the_past_and_not_the_future():
    model = LanguageModel(9, 6, 2)
    params = initial(model, 2)
    tokens = np.random.default_rng(2).integers(0, 9, (1, 20))
    changed = tokens.copy()
    changed[0, 11] = (changed[0, 11] + 1) % 9
    before, _ = model.apply({"params": params}, tokens, model.initial_carry(1))
    after, _ = model.apply({"params": params}, changed, model.initial_carry(1))
    np.testing.assert_array_equal(before[:, :11], after[:, :11])
    assert (np.abs(before[:, 11:] - after[:, 11:]).max(-1) > 0).all()


def test_dropout_acts_between_layers_and_only_in_training():
    tokens = np.zeros((2, 6), int)

    def runner(layers):
        model = LanguageModel(9, 64, layers, dropout=0.5)
        params = initial(model, 3)

        def run(key, train):
            rngs = {"dropout": jax.random.key(key)}
            return model.apply({"params": params}, tokens, model.initial_carry(2), train, rngs=rngs)[0]

        return jax.jit(run, static_argnames="train")

    one, two = runner(1), runner(2)
    assert not np.array_equal(two(0, train=True), two(1, train=True))
    np.testing.assert_array_equal(two(0, train=True), two(0, train=True))
    np.testing.assert_array_equal(two(0, train=False), two(1, train=False))
    np.testing.assert_allclose(one(0, train=True), one(0, train=False), atol=1e-6)
