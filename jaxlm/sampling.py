"""Generation: the next token's distribution, and texts drawn from it one token at a time on the device."""

import dataclasses
import functools
import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import InputError, Mode, SampleConfig, Unknown, check_temperature, reject
from jaxlm.model import Carry, LanguageModel, Params
from jaxlm.text import Vocab

CHUNK = 128
"""Tokens that one call to the device generates, or reads of a prompt; text is shown chunk by chunk."""

STREAM = 0x7E87
"""Sets the random numbers of generation apart from those of training."""

TINY = np.finfo(np.float32).tiny
"""The smallest normal float32; temperatures below it are greedy."""


def reweight(probabilities: Any, temperature: float) -> np.ndarray:
    """A distribution at another temperature: p ** (1 / temperature), normalised.

    Computed from logarithms, so that zeros stay zeros and no temperature overflows. At temperature 0 it is the
    limit: the most probable entries share everything.

    Args:
      probabilities: float[..., V], not negative, not all 0.
      temperature: 0 or more.

    Returns:
      float64[..., V], each row summing to 1.

    Raises:
      ValueError: the temperature or the probabilities are none.

    Source: `reweight_distribution`, Deep Learning with Python, 8.1.
    """
    check_temperature(temperature)
    weights = np.asarray(probabilities, np.float64)
    if not weights.size or not np.all(np.isfinite(weights)) or np.any(weights < 0) or np.any(weights.sum(-1) <= 0):
        reject("probabilities", probabilities, "finite numbers of 0 or more, not all 0")
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.log(weights)
        logs -= logs.max(-1, keepdims=True)
        scaled = np.where(logs == 0, 0.0, -np.inf) if temperature == 0 else logs / temperature
    unnormalised = np.exp(scaled)
    return unnormalised / unnormalised.sum(-1, keepdims=True)


def next_token(key: jax.Array, logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """Draws a token from softmax(logits / temperature); below TINY, the most probable one.

    Args:
      key: used once.
      logits: float32[..., V].
      temperature: float32 scalar, 0 or more.

    Returns:
      int32[...].
    """
    greedy = temperature < TINY
    # Log-probabilities, up to the constant that `categorical` ignores. Relative to the largest, which stays 0,
    # no temperature turns all of them infinite, and no two of them are rounded together.
    log_probs = logits - jnp.max(logits, axis=-1, keepdims=True)
    drawn = jax.random.categorical(key, log_probs / jnp.where(greedy, 1.0, temperature))
    return jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="model")
def prefill(model: LanguageModel, params: Params, carry: Carry, tokens: jax.Array, count: jax.Array) -> Carry:
    """The carry after reading the first `count` of tokens, int32[P], from a carry of batch 1."""

    def read(carry: Carry, i: jax.Array) -> tuple[Carry, None]:
        _, after = model.apply({"params": params}, tokens[i][None, None], carry, method=model.states)
        return jax.tree.map(lambda new, old: jnp.where(i < count, new, old), after, carry), None

    return jax.lax.scan(read, carry, jnp.arange(len(tokens)))[0]


@functools.partial(jax.jit, static_argnames="model")
def generate_state(
    model: LanguageModel,
    params: Params,
    carry: Carry,
    token: jax.Array,
    key: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[Carry, jax.Array, jax.Array]:
    """CHUNK tokens, each from the carry that all tokens before it left.

    Args:
      model: what generates.
      params: its parameters.
      carry: after all tokens but the last, batch 1.
      token: the last token, int32 scalar.
      key: of the whole text; the i-th token's is folded from it, so that chunks are seamless.
      start: i of the first token.
      temperature: float32 scalar.

    Returns:
      (carry, token, int32[CHUNK] tokens), the first two for the next call.
    """

    def write(state: tuple[Carry, jax.Array], i: jax.Array) -> tuple[tuple[Carry, jax.Array], jax.Array]:
        carry, token = state
        logits, carry = model.apply({"params": params}, token[None, None], carry)
        token = next_token(jax.random.fold_in(key, i), logits[0, 0], temperature)
        return (carry, token), token

    (carry, token), tokens = jax.lax.scan(write, (carry, token), start + jnp.arange(CHUNK, dtype=jnp.uint32))
    return carry, token, tokens


@functools.partial(jax.jit, static_argnames="model")
def generate_window(
    model: LanguageModel,
    params: Params,
    window: jax.Array,
    count: jax.Array,
    key: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CHUNK tokens, each from the window of tokens before it alone, read from a zero carry.

    Args:
      model: what generates.
      params: its parameters.
      window: int32[T], the last tokens, the first `count` of it; what follows them is ignored.
      count: int32 scalar from 1 to T.
      key: as in generate_state.
      start: as in generate_state.
      temperature: float32 scalar.

    Returns:
      (window, count, int32[CHUNK] tokens), the first two for the next call.
    """

    def write(state: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        window, count = state
        states, _ = model.apply({"params": params}, window[None], model.initial_carry(1), method=model.states)
        # The recurrence is causal: the state at the last real token knows nothing of what follows it.
        logits = model.apply({"params": params}, states[0, count - 1], method=model.logits)
        token = next_token(jax.random.fold_in(key, i), logits, temperature)
        full = count == len(window)
        window = jnp.where(full, jnp.roll(window, -1), window)
        count = jnp.where(full, count, count + 1)
        return (window.at[count - 1].set(token), count), token

    (window, count), tokens = jax.lax.scan(write, (window, count), start + jnp.arange(CHUNK, dtype=jnp.uint32))
    return window, count, tokens


@dataclasses.dataclass(frozen=True, eq=False)
class TextGenerator:
    """A trained model that writes.

    Attributes:
      model: the network.
      params: its parameters.
      vocab: text to tokens and back.
      lowercase: whether it has only seen lowercased text; prompts are lowercased too.
      seed_text: the prompt where none is given.
      length: T, tokens in the windows it was trained on.
      mode: how it was trained, and generates unless told otherwise.
    """

    model: LanguageModel
    params: Params
    vocab: Vocab
    lowercase: bool
    seed_text: str
    length: int
    mode: Mode

    def generate(
        self,
        prompt: str | None = None,
        length: int = 400,
        *,
        temperature: float = 0.5,
        seed: int | None = None,
        mode: Mode | None = None,
        unknown: Unknown = "error",
    ) -> str:
        """Writes on from a prompt.

        Args:
          prompt: text to go on from; by default the run's seed text.
          length: characters to write.
          temperature: 0 (or below float32's smallest normal number) always takes the most probable token; 1 draws
            from the distribution as learned; in general, from softmax(logits / temperature).
          seed: repeats a text exactly; by default every text is another.
          mode: `window` sees only the last T tokens, from a zero state, as in training on windows; `state` carries
            the state on. By default, as the model was trained.
          unknown: `skip` drops characters from the prompt that the model has never seen.

        Returns:
          The prompt as the model read it, and the continuation.

        Raises:
          ValueError: an argument is out of range, or the prompt is empty or has unknown characters.
        """
        return "".join(self.stream(prompt, length, temperature=temperature, seed=seed, mode=mode, unknown=unknown))

    def stream(
        self,
        prompt: str | None = None,
        length: int = 400,
        *,
        temperature: float = 0.5,
        seed: int | None = None,
        mode: Mode | None = None,
        unknown: Unknown = "error",
    ) -> Iterator[str]:
        """The text of `generate` in pieces, the prompt first; arguments are checked at once."""
        config = SampleConfig(prompt, length, (temperature,), seed, mode, unknown)
        prompt = self._read_prompt(config)
        tokens = self.vocab.encode(prompt)
        key = jax.random.key(secrets.randbelow(2**32) if seed is None else seed)
        # Not the key of the initial weights, even where a text has the seed of its run.
        key = jax.random.fold_in(key, STREAM)
        temperature = min(temperature, float(np.finfo(np.float32).max))
        chunks = self._chunks(config.mode or self.mode, tokens, key, np.float32(temperature))
        return self._cut(prompt, length, chunks)

    def _read_prompt(self, config: SampleConfig) -> str:
        prompt = self.seed_text if config.prompt is None else config.prompt
        if self.lowercase:
            prompt = prompt.lower()
        if config.unknown == "skip":
            unknown = set(self.vocab.unknown(prompt))
            prompt = "".join(character for character in prompt if character not in unknown)
        if not prompt:
            raise InputError(
                "prompt: found no text that the model knows, expected at least one character; leave the prompt out "
                "for the run's own seed text"
            )
        return prompt

    def _chunks(self, mode: Mode, tokens: np.ndarray, key: jax.Array, temperature: np.float32) -> Iterator[np.ndarray]:
        """Continuations of tokens, CHUNK at a time, without end."""
        generate: Callable[..., Any]
        state: list[Any]
        if mode == "window":
            last = tokens[-self.length :]
            generate, state = generate_window, [np.pad(last, (0, self.length - len(last))), np.int32(len(last))]
        else:
            generate, state = generate_state, [self._read(tokens[:-1]), tokens[-1]]
        for start in itertools.count(0, CHUNK):
            # The index wraps around after 2**32 tokens.
            *state, chunk = generate(self.model, self.params, *state, key, np.uint32(start % 2**32), temperature)
            yield np.asarray(chunk)

    def _read(self, tokens: np.ndarray) -> Carry:
        """The carry after tokens, from the start of a text."""
        carry = self.model.initial_carry(1)
        for start in range(0, len(tokens), CHUNK):
            block = tokens[start : start + CHUNK]
            padded = np.pad(block, (0, CHUNK - len(block)))
            carry = prefill(self.model, self.params, carry, padded, np.int32(len(block)))
        return carry

    def _cut(self, prompt: str, length: int, chunks: Iterator[np.ndarray]) -> Iterator[str]:
        """The prompt, then exactly `length` characters of the chunks' text."""
        yield prompt
        decode = self.vocab.decoder()
        while length > 0:
            piece = decode(next(chunks), False)[:length]
            length -= len(piece)
            yield piece
