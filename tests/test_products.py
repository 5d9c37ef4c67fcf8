"""Matrix products: each is float32 on every device, or of bfloat16 operands where that was asked for."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.config import ModelConfig
from jaxlm.nn import lstm
from jaxlm.nn.model import LanguageModel
from jaxlm.nn.products import linear
from jaxlm.nn.sampling import Draw, StateMemory, WindowMemory, generate
from jaxlm.nn.scoring import score_rows
from jaxlm.nn.training import BLOCK, Batches, abstract_state, compiled_steps, initial_state
from jaxlm.runs import trainer

B, T, D, H = 3, 9, 7, 5
CONFIG = ModelConfig(16, layers=2, embedding=8)


def shape(dtype, *dims):
    return jax.ShapeDtypeStruct(dims, dtype)


def programs(model):
    """The text of each program that multiplies: training with both recipes, scoring, generating."""
    params, carry = jax.eval_shape(model.init_params, jax.random.key(0)), model.initial_carry(2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    for config in (jaxlm.BOOK, jaxlm.STREAM["medium"]):
        state, batches = abstract_state(model, config), Batches(shape(jnp.int32, BLOCK, config.batch), None)
        steps = compiled_steps(model, config, 100, 1.0, mesh).__wrapped__
        yield steps.lower(state, shape(jnp.uint8, 1000), batches, shape(jnp.int32), shape(jnp.int32)).as_text()
    if model.precision == "float32":
        yield score_rows.__wrapped__.lower(model, params, carry, shape(jnp.int32, 2, 5), positions=4).as_text()
        for memory in (StateMemory(carry, shape(jnp.int32, 2)), WindowMemory(shape(jnp.int32, 2, 6), shape(jnp.int32))):
            numbers = shape(jnp.uint32, 2), shape(jnp.uint32), Draw(shape(jnp.float32))
            yield generate.__wrapped__.lower(model, params, memory, *numbers).as_text()


@pytest.mark.parametrize("impl", ["scan", "fused"])
@pytest.mark.parametrize("ambient", [None, "bfloat16"])
def test_float32_is_asked_for_in_every_product(impl, ambient):
    with jax.default_matmul_precision(ambient):
        for text in programs(LanguageModel(57, CONFIG, impl)):
            products = re.findall(r"dot_general.*", text)
            assert len(products) > 2
            assert all("precision = [HIGHEST, HIGHEST]" in product for product in products)


def test_every_product_of_training_is_of_bfloat16_and_summed_in_float32():
    for text in programs(LanguageModel(57, CONFIG, "fused", "bfloat16")):
        products = re.findall(r"dot_general.*: (\(.*\)) -> (.*)", text)
        assert len(products) > 2
        assert all(operands.count("bf16") == 2 and result.endswith("xf32>") for operands, result in products)


def rounded(array):
    return np.asarray(jnp.asarray(array).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def test_a_product_of_bfloat16_rounds_its_operands_and_nothing_else():
    rng = np.random.default_rng(0)
    a, b, weights = (rng.normal(size=size).astype(np.float32) for size in ((2, T, D), (D, H), (2, T, H)))

    def weighed(a, b):
        out = linear(a, b, "bfloat16")
        return (weights * out).sum(), out

    grads, out = jax.grad(weighed, (0, 1), has_aux=True)(a, b)
    np.testing.assert_allclose(out, rounded(a) @ rounded(b), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grads[0], rounded(weights) @ rounded(b).T, rtol=1e-5, atol=1e-5)
    expected = rounded(a).reshape(-1, D).T @ rounded(weights).reshape(-1, H)
    np.testing.assert_allclose(grads[1], expected, rtol=1e-5, atol=1e-5)


def layer(ids):
    rng = np.random.default_rng(1)
    params = {}
    for gate in lstm.GATES:
        params["i" + gate] = {"kernel": rng.normal(size=(D, H)).astype(np.float32)}
        params["h" + gate] = {"kernel": rng.normal(size=(H, H)).astype(np.float32), "bias": np.ones(H, np.float32)}
    carry = tuple(rng.normal(size=(B, H)).astype(np.float32) for _ in range(2))
    return params, carry, rng.integers(0, D, (B, T)) if ids else rng.normal(size=(B, T, D)).astype(np.float32)


@pytest.fixture(params=[None, H], ids=["rows", "columns"])
def columns(request, monkeypatch):
    """Whether the texts of a batch are rows of the loops' matrices, or columns."""
    monkeypatch.setitem(lstm.LOOPS, "cpu", lstm.LOOPS["cpu"]._replace(columns=request.param))
    monkeypatch.setattr(lstm, "FEWEST_COLUMNS", 1)


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize("ids", [False, True], ids=["vectors", "ids"])
def test_a_recurrence_in_bfloat16_is_a_loop_with_rounded_operands(ids):
    """Inputs that are ids are rows of W, looked up and not multiplied."""
    params, carry, inputs = layer(ids)
    side_by_side = {side: [params[side + gate]["kernel"] for gate in lstm.GATES] for side in "ih"}
    w, u = (np.concatenate(side_by_side[side], 1).astype(np.float64) for side in "ih")
    w, (c, h), outputs = w if ids else rounded(w), carry, []
    for t in range(T):
        x = np.eye(D)[inputs[:, t]] if ids else rounded(inputs[:, t])
        i, f, g, o = np.split(x @ w + rounded(h) @ rounded(u) + 1.0, 4, 1)
        sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = (sigmoid(o) * np.tanh(c)).astype(np.float32)
        outputs.append(h)
    (last_c, last_h), found = lstm.fused(params, carry, jnp.asarray(inputs), "bfloat16")
    # A rounding may fall to the other side of a tie; its effect is below bfloat16's own step, 2 ** -8.
    np.testing.assert_allclose(found, np.stack(outputs, 1), atol=2e-3)
    np.testing.assert_allclose(last_c, c, atol=2e-3)
    np.testing.assert_allclose(last_h, h, atol=2e-3)


def loops_of(jaxpr):
    """The bodies of a program's loops, at any depth."""
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(equation.params):
            if inner := getattr(value, "jaxpr", None):
                if equation.primitive.name == "scan":
                    yield inner
                yield from loops_of(inner)


@pytest.mark.usefixtures("columns")
def test_kernels_are_rounded_once_and_not_at_every_step(monkeypatch):
    monkeypatch.setitem(lstm.LOOPS, "cpu", lstm.LOOPS["cpu"]._replace(span=T))  # Several spans, in a loop, too.
    params, carry, inputs = layer(ids=False)

    def loss(params, inputs):
        return lstm.fused(params, carry, inputs, "bfloat16")[1].sum()

    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, jnp.asarray(inputs))
    sizes = {
        equation.outvars[0].aval.size
        for loop in loops_of(program.jaxpr)
        for equation in loop.eqns
        if equation.primitive.name == "convert_element_type"
    }
    assert sizes
    assert not sizes & {4 * H * H, 4 * H * D}


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize("ids", [False, True], ids=["vectors", "ids"])
def test_gradients_in_bfloat16_are_those_of_float32_up_to_its_rounding(ids):
    params, carry, inputs = layer(ids)

    def loss(precision, params, carry):
        (c, h), outputs = lstm.fused(params, carry, jnp.asarray(inputs), precision)
        return (outputs * outputs).sum() + (c * h).sum()

    grads, expected = (
        jax.jit(jax.grad(functools.partial(loss, precision), (0, 1)))(params, carry)
        for precision in ("bfloat16", "float32")
    )
    for grad, exact in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert 0 < np.abs(grad - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("impl", ["scan", "cudnn"])
def test_only_fused_has_products_of_bfloat16(small, impl):
    with pytest.raises(jaxlm.InputError, match=f"precision: .*bfloat16.* with impl {impl}; .*choose impl fused"):
        dataclasses.replace(small, precision="bfloat16", impl=impl)
    params, carry, inputs = layer(ids=False)
    with pytest.raises(NotImplementedError, match=f"{impl} has no products of bfloat16"):
        lstm.IMPLS[impl](params, carry, inputs, "bfloat16")


def test_a_run_in_bfloat16_is_evaluated_and_resumed_as_it_should_be(small, tmp_path, monkeypatch):
    config = dataclasses.replace(small, precision="bfloat16", validation=0.1)
    whole = trainer.train(config, run="whole", checkpoints=tmp_path)
    assert whole.model.precision == "float32"
    run = jaxlm.Run.open(tmp_path / "whole")
    assert run.record.config.precision == "bfloat16"
    figures = [line["validation_loss"] for line in run.storage.metrics()]
    assert jaxlm.evaluate(run).static.loss == pytest.approx(min(figures), rel=1e-6)
    assert all(leaf.dtype in (np.float32, np.int32, np.uint32) for leaf in jax.tree.leaves(run.restore()[0]))

    trainer.train(dataclasses.replace(config, epochs=1), run="fox", checkpoints=tmp_path)
    trainer.resume(tmp_path / "fox", epochs=config.epochs)
    states = [jaxlm.Run.open(tmp_path / name).restore()[0] for name in ("whole", "fox")]
    assert jax.tree.all(jax.tree.map(np.array_equal, *states))

    exact = trainer.train(dataclasses.replace(config, precision="float32"), run="exact", checkpoints=tmp_path)
    assert not jax.tree.all(jax.tree.map(np.array_equal, exact.params, whole.params))
    assert initial_state(whole.model, config).params.keys() == exact.params.keys()
    with pytest.raises(jaxlm.InputError, match="a resumed run keeps its settings"):
        trainer.resume(tmp_path / "fox", precision="float32")
