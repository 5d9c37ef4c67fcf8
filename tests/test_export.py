"""The compiled parts lower for every platform, so that what only CPU has is caught without the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.model import LanguageModel
from jaxlm.sampling import generate_state, generate_window, prefill
from jaxlm.training import init_state, make_optimizer, make_step

PLATFORMS = ("cpu", "cuda", "tpu")
MODEL = LanguageModel(57, 32, 2, 0.2)
PARAMS = jax.eval_shape(MODEL.init_params, jax.random.key(0))


def shape(dtype, *dims):
    return jax.ShapeDtypeStruct(dims, dtype)


def exported(function, *arguments):
    return jax.export.export(function, platforms=PLATFORMS)(*arguments).platforms


@pytest.mark.parametrize("devices", [1, 4])
def test_the_training_step(devices):
    optimizer = make_optimizer(jaxlm.BOOK)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    state = jax.eval_shape(lambda: init_state(MODEL, optimizer, 0))
    step = make_step(MODEL, optimizer, 60, mesh)
    assert exported(step, state, shape(jnp.uint8, 1000), shape(jnp.int32, 128)) == PLATFORMS


def test_the_generators():
    carry, key = jax.eval_shape(lambda: (MODEL.initial_carry(1), jax.random.key(0)))
    token, index, temperature = shape(jnp.int32), shape(jnp.uint32), shape(jnp.float32)
    window = shape(jnp.int32, 60)
    for function, arguments in (
        (prefill, (carry, shape(jnp.int32, 128), token)),
        (generate_state, (carry, token, key, index, temperature)),
        (generate_window, (window, token, key, index, temperature)),
    ):
        bound = jax.jit(lambda *arguments, function=function: function(MODEL, *arguments))
        assert exported(bound, PARAMS, *arguments) == PLATFORMS
