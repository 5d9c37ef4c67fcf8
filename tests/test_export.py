"""The compiled parts lower for every platform, so that CPU-only code is caught without the other devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from jax.interpreters import mlir

import jaxlm
from jaxlm.config import ModelConfig
from jaxlm.nn.counts import Prior, make_table
from jaxlm.nn.dynamic import SEGMENT, SEGMENTS, SQUARED, adapt, add_squares
from jaxlm.nn.model import LanguageModel
from jaxlm.nn.sampling import Draw, StateMemory, WindowMemory, generate, prefill
from jaxlm.nn.scoring import score_rows
from jaxlm.nn.training import BLOCK, Batches, abstract_state, compiled_steps
from jaxlm.text.ngram import NGram

PLATFORMS = ("cpu", "cuda", "tpu")
MODELS = [LanguageModel(57, ModelConfig(32, layers=2, dropout=0.2), impl=impl) for impl in ("scan", "fused")]
LEARNERS = [*MODELS, MODELS[-1].clone(precision="bfloat16")]
PARAMS = jax.eval_shape(MODELS[0].init_params, jax.random.key(0))


def shape(dtype, *dims):
    return jax.ShapeDtypeStruct(dims, dtype)


def exported(function, *arguments):
    return jax.export.export(function, platforms=PLATFORMS)(*arguments).platforms


@pytest.mark.parametrize("model", LEARNERS, ids=lambda model: f"{model.impl}-{model.precision}")
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("config", [jaxlm.BOOK, jaxlm.STREAM["medium"]], ids=lambda config: config.recipe)
def test_the_training_step(model, devices, config):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    state = abstract_state(model, config)
    steps = compiled_steps(model, config, 100, 1.0, mesh).__wrapped__
    batches, number = Batches(shape(jnp.int32, BLOCK, config.batch), None), shape(jnp.int32)
    assert exported(steps, state, shape(jnp.uint8, 1000), batches, number, number) == PLATFORMS


@pytest.fixture
def cudnn(monkeypatch):
    """The model with cuDNN's recurrence. NVIDIA's library only describes it: JAX lowers the rest."""

    class Library:
        @staticmethod
        def build_rnn_descriptor(*_):
            return b"a descriptor"

    sizes = "compute_rnn_workspace_reserve_space_sizes"
    monkeypatch.setattr(rnn.gpu_rnn, sizes, lambda *_: (16, 32), raising=False)
    for primitive, lowering in (
        (rnn.rnn_fwd_p, rnn.gpu_rnn._rnn_fwd_lowering),
        (rnn.rnn_bwd_p, rnn.gpu_rnn._rnn_bwd_lowering),
    ):
        mlir.register_lowering(primitive, functools.partial(lowering, Library, "cu"), platform="cuda")
    return MODELS[0].clone(impl="cudnn")


def calls_of_cudnn(text):
    return text.count("@cudnn_rnn_ffi("), text.count("@cudnn_rnn_bwd_ffi(")


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("config", [jaxlm.BOOK, jaxlm.STREAM["medium"]], ids=lambda config: config.recipe)
def test_the_training_step_with_cudnn(cudnn, devices, config):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    steps = compiled_steps(cudnn, config, 100, 1.0, mesh).__wrapped__
    batches, number = Batches(shape(jnp.int32, BLOCK, config.batch), None), shape(jnp.int32)
    traced = steps.trace(abstract_state(cudnn, config), shape(jnp.uint8, 1000), batches, number, number)
    layers = cudnn.config.layers
    assert calls_of_cudnn(traced.lower(lowering_platforms=("cuda",)).as_text()) == (layers, layers)


def test_scores_windows_and_adaptation_with_cudnn(cudnn):
    layers, carry = cudnn.config.layers, jax.eval_shape(lambda: cudnn.initial_carry(3))
    windows, number = shape(jnp.int32, 3, 60), shape(jnp.int32)
    drawing = shape(jnp.uint32, 3), shape(jnp.uint32), Draw(shape(jnp.float32))
    segments = shape(jnp.int32, 20, 51)
    one, rate = jax.eval_shape(lambda: cudnn.initial_carry(1)), shape(jnp.float32)
    for function, arguments, backward in (
        (functools.partial(score_rows, positions=60), (PARAMS, carry, shape(jnp.int32, 3, 61)), 0),
        (generate, (PARAMS, WindowMemory(windows, number), *drawing), 0),
        (generate, (PARAMS, StateMemory(carry, shape(jnp.int32, 3)), *drawing), None),  # Step by step, as `fused`.
        (adapt, (PARAMS, PARAMS, PARAMS, one, segments, rate, rate), layers),
    ):
        traced = jax.jit(functools.partial(function, cudnn)).trace(*arguments)
        found = calls_of_cudnn(traced.lower(lowering_platforms=("cuda",)).as_text())
        assert found == ((0, 0) if backward is None else (layers, backward))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.impl)
def test_the_generators(model):
    one, carry = jax.eval_shape(lambda: (model.initial_carry(1), model.initial_carry(3)))
    count, tokens, windows = shape(jnp.int32), shape(jnp.int32, 3), shape(jnp.int32, 3, 60)
    seeds, index, draw = shape(jnp.uint32, 3), shape(jnp.uint32), Draw(shape(jnp.float32))
    for function, arguments in (
        (prefill, (one, shape(jnp.int32, 128), count)),
        (generate, (StateMemory(carry, tokens), seeds, index, draw)),
        (generate, (WindowMemory(windows, count), seeds, index, draw)),
    ):
        bound = jax.jit(lambda *arguments, function=function: function(model, *arguments))
        assert exported(bound, PARAMS, *arguments) == PLATFORMS


def segments(tokens):
    return shape(jnp.int32, SEGMENTS, tokens + 1)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.impl)
def test_the_scores(model):
    carry, rate = jax.eval_shape(lambda: model.initial_carry(1)), shape(jnp.float32)
    for function, arguments in (
        (functools.partial(score_rows, positions=1024), (PARAMS, carry, shape(jnp.int32, 1, 1025))),
        (add_squares, (PARAMS, PARAMS, carry, segments(SQUARED))),
        (adapt, (PARAMS, PARAMS, PARAMS, carry, segments(SEGMENT), rate, rate)),
    ):
        assert exported(jax.jit(functools.partial(function, model)), *arguments) == PLATFORMS


COUNTED = LanguageModel(5, ModelConfig(8, embedding=4, ngram=3), impl="fused")


def prior_of(*leading):
    return Prior(shape(jnp.float32, *leading, COUNTED.vocabulary), shape(jnp.int32, *leading, 4))


@pytest.mark.parametrize("devices", [1, 4])
def test_the_training_step_with_counts(devices):
    config = dataclasses.replace(jaxlm.SIZES["small"], model=COUNTED.config)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    steps = compiled_steps(COUNTED, config, 100, 1.0, mesh).__wrapped__
    prior = prior_of(BLOCK, config.batch, config.length)
    batches, number = Batches(shape(jnp.int32, BLOCK, config.batch), prior), shape(jnp.int32)
    state = abstract_state(COUNTED, config)
    assert exported(steps, state, shape(jnp.uint8, 1000), batches, number, number) == PLATFORMS


def test_generators_and_scores_with_counts():
    params = COUNTED.abstract_params()
    one, carry = jax.eval_shape(lambda: (COUNTED.initial_carry(1), COUNTED.initial_carry(3)))
    table = jax.tree.map(jnp.asarray, make_table(NGram.count(np.arange(40) % 5, 5, 3)))
    number, drawing = shape(jnp.int32), (shape(jnp.uint32, 3), shape(jnp.uint32), Draw(shape(jnp.float32)))
    state = StateMemory(carry, shape(jnp.int32, 3), shape(jnp.int32, 3))
    rate = shape(jnp.float32)
    for function, arguments in (
        (prefill, (params, one, shape(jnp.int32, 128), number, prior_of(128))),
        (generate, (params, state, *drawing, table)),
        (generate, (params, WindowMemory(shape(jnp.int32, 3, 9), number), *drawing, table)),
        (
            lambda *given: score_rows(*given[:-1], 60, given[-1]),
            (params, carry, shape(jnp.int32, 3, 61), prior_of(3, 60)),
        ),
        (add_squares, (params, params, one, segments(SQUARED), prior_of(SEGMENTS, SQUARED))),
        (adapt, (params, params, params, one, segments(SEGMENT), rate, rate, prior_of(SEGMENTS, SEGMENT))),
    ):
        bound = jax.jit(lambda *arguments, function=function: function(COUNTED, *arguments))
        assert exported(bound, *arguments) == PLATFORMS
