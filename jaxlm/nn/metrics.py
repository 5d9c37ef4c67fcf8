"""Metrics: summed nats and counts, and the figures derived from them."""

import math

import jax
import jax.numpy as jnp


def log_probs(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The log-probability of each target, in nats.

    Args:
      logits: float[..., V], unnormalised; promoted to float32.
      targets: int[...], ids in [0, V).

    Returns:
      float32[...].

    Source: Keras's categorical cross-entropy, but from logits, so that no probability is clipped.
    """
    normalised = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(normalised, targets[..., None], axis=-1)[..., 0]


def cross_entropy_sum(logits: jax.Array, expected: jax.Array, mask: jax.Array) -> jax.Array:
    """The cross-entropy of some distributions relative to others, summed, in nats.

    Args:
      logits: float[B, K, V], unnormalised; promoted to float32.
      expected: float[B, K, V], the other distributions.
      mask: bool[B]; rows that are False are left out.

    Returns:
      A float32 scalar.
    """
    nats = -(expected.astype(jnp.float32) * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)
    return jnp.where(mask[:, None], nats, 0.0).sum()


def nll_sum(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Total negative log-likelihood, in nats, and the number of targets.

    Sums, so that shards and batches can be added before the one division.

    Args:
      logits: float[B, K, V], unnormalised; promoted to float32.
      targets: int[B, K], ids in [0, V).
      mask: bool[B]; rows that are False are left out.

    Returns:
      (nats, count), float32 scalars; nats / count is the loss per token.

    Raises:
      ValueError: targets.shape is not logits.shape[:-1], or mask.shape not targets.shape[:1].
    """
    if targets.shape != logits.shape[:-1] or mask.shape != targets.shape[:1]:
        raise ValueError(f"logits {logits.shape}, targets {targets.shape} and mask {mask.shape} do not match")
    nats = -log_probs(logits, targets)
    rows = mask[:, None]
    return jnp.where(rows, nats, 0.0).sum(), jnp.broadcast_to(rows, nats.shape).sum(dtype=jnp.float32)


def bits_per_character(nats: float, characters: float) -> float:
    """Bits per character of a text with this loss, in nats, and this many characters.

    Source: Graves 2013, arXiv:1308.0850.
    """
    return nats / (characters * math.log(2))


def perplexity(loss: float) -> float:
    """exp(loss): the number of equally likely tokens that are as hard to predict; inf if it would overflow."""
    return math.exp(loss) if loss < 700 else math.inf
