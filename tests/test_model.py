"""The model: its size, its initial weights, its equations, and Flax's names for its parameters."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same
from reference import logits as numpy_logits

from jaxlm.config import ModelConfig
from jaxlm.nn import lstm
from jaxlm.nn.counts import Prior
from jaxlm.nn.model import LanguageModel

V, H = 57, 128


@functools.cache
def initial(model, seed):
    return jax.jit(model.init_params)(jax.random.key(seed))


def book_params():
    return initial(LanguageModel(V, ModelConfig(H)), 7)


@pytest.mark.parametrize("ngram", [0, 3])
@pytest.mark.parametrize("embedding", [0, 4])
def test_initial_parameters_are_those_of_the_whole_network(embedding, ngram):
    model = LanguageModel(5, ModelConfig(6, layers=2, embedding=embedding, ngram=ngram))
    prior = Prior(jnp.ones((1, 1, 5)), jnp.zeros((1, 1, ngram + 1), jnp.int32)) if ngram else None
    tokens, key = jnp.zeros((1, 1), jnp.int32), jax.random.key(3)
    whole = jax.jit(lambda: model.init(key, tokens, model.initial_carry(1), False, prior)["params"])()
    assert_same(jax.jit(model.init_params)(key), whole)


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
    params = initial(LanguageModel(H, ModelConfig(H, 2)), 0)
    assert not np.array_equal(params["lstm_0"]["hi"]["kernel"], params["lstm_1"]["hi"]["kernel"])


def test_two_layers_are_the_equations():
    model = LanguageModel(9, ModelConfig(6, 2))
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
    model = LanguageModel(V, ModelConfig(H))
    logits, _ = model.apply({"params": params}, tokens, model.initial_carry(2))
    np.testing.assert_allclose(Plain().apply({"params": params}, tokens), logits, atol=1e-5)


def test_logits_know_the_past_and_not_the_future():
    model = LanguageModel(9, ModelConfig(6, 2))
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
        model = LanguageModel(9, ModelConfig(64, layers, dropout=0.5))
        params = initial(model, 3)

        def run(key, train):
            rngs = {"dropout": jax.random.key(key)}
            return model.apply({"params": params}, tokens, model.initial_carry(2), train, rngs=rngs)[0]

        return jax.jit(run, static_argnames="train")

    two = runner(2)
    assert not np.array_equal(two(0, train=True), two(1, train=True))
    np.testing.assert_array_equal(two(0, train=True), two(0, train=True))
    np.testing.assert_array_equal(two(0, train=False), two(1, train=False))


def trained_run(model, seed=3):
    """What a model computes in training: (logits, states) of two rows of six tokens, by the key of its dropout."""
    params = initial(model, seed)
    tokens = np.random.default_rng(3).integers(0, 9, (2, 6))

    @jax.jit
    def run(key):
        rngs = {"dropout": key}
        return model.apply({"params": params}, tokens, model.initial_carry(2), True, rngs=rngs)[0]

    return run


def test_an_embedding_is_one_matrix_that_a_token_picks_a_row_of():
    model = LanguageModel(9, ModelConfig(6, embedding=4))
    params = initial(model, 1)
    assert params["embed"]["embedding"].shape == (9, 4)
    assert params["lstm_0"]["ii"]["kernel"].shape == (4, 6)
    # Rows times the input kernels are the input kernels of one-hot tokens.
    rows = params["embed"]["embedding"]
    lstm_0 = {name: dict(leaves) for name, leaves in params["lstm_0"].items()}
    for gate in lstm.GATES:
        lstm_0[f"i{gate}"]["kernel"] = rows @ lstm_0[f"i{gate}"]["kernel"]
    tokens = np.random.default_rng(0).integers(0, 9, (4, 30))
    logits, _ = model.apply({"params": params}, tokens, model.initial_carry(4))
    expected = numpy_logits({"lstm_0": lstm_0, "dense": params["dense"]}, tokens, 9)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_output_dropout_drops_the_same_units_at_all_steps():
    model = LanguageModel(9, ModelConfig(8, output_dropout=0.5))
    params = {"dense": {"kernel": jnp.eye(8, 9), "bias": jnp.zeros(9)}, "lstm_0": initial(model, 0)["lstm_0"]}
    apply = functools.partial(model.apply, {"params": params}, jnp.ones((40, 5, 8)), True, method=model.logits)
    logits = np.asarray(apply(rngs={"dropout": jax.random.key(0)}))[..., :8]
    assert set(logits.ravel().tolist()) == {0.0, 2.0}
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[:, :1], logits.shape))
    assert 0.4 < (logits[:, 0] == 0).mean() < 0.6
    assert len({row.tobytes() for row in logits[:, 0]}) > 30  # Each row of a batch drops its own.


def test_recurrent_dropout_drops_the_weights_and_not_the_states():
    """With nearly all recurrent weights dropped, what is left is a model whose steps know nothing of each other."""
    model = LanguageModel(9, ModelConfig(8, recurrent_dropout=1 - 1e-7))
    found = trained_run(model)(jax.random.key(0))
    params = initial(model, 3)
    params = jax.tree.map_with_path(
        lambda path, leaf: leaf * 0 if leaf.ndim == 2 and path[1].key.startswith("h") else leaf, params
    )
    tokens = np.random.default_rng(3).integers(0, 9, (2, 6))
    expected, _ = model.apply({"params": params}, tokens, model.initial_carry(2))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_dropout_draws_by_its_key_and_only_in_training():
    for changes in ({"dropout": 0.5, "layers": 2}, {"output_dropout": 0.5}, {"recurrent_dropout": 0.5}):
        model = LanguageModel(9, ModelConfig(8, **changes))
        run, (one, other) = trained_run(model), jax.random.split(jax.random.key(1))
        np.testing.assert_array_equal(run(one), run(one))
        assert not np.allclose(run(one), run(other))
        tokens, carry = np.random.default_rng(3).integers(0, 9, (2, 6)), model.initial_carry(2)
        written, _ = model.apply({"params": initial(model, 3)}, tokens, carry)  # Without a key.
        assert not np.allclose(run(one), written)
