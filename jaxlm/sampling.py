"""Generation: the next token's distribution, and texts drawn from it one token at a time on the device."""

import dataclasses
import functools
import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import InputError, Mode, SampleConfig, Unknown, check_choice, check_temperature, reject
from jaxlm.model import Carry, LanguageModel, Params
from jaxlm.scoring import score_carried
from jaxlm.text import Vocab

CHUNK = 128
"""Tokens that one call to the device generates, or reads of a prompt; text is shown chunk by chunk."""

DRAWS = 2**23
"""Random numbers that are drawn at once, 32 MB; of more texts than that is enough for, groups are written in turn."""

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

    The reference for `pick_token`.

    Args:
      key: used once.
      logits: float32[..., V].
      temperature: float32 scalar, 0 or more.

    Returns:
      int32[...].
    """
    drawn = jax.random.categorical(key, _scale(logits, temperature))
    return jnp.where(temperature < TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def pick_token(noise: jax.Array, logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """What `next_token` draws, from its random numbers: noise = jax.random.gumbel(key, logits.shape).

    `categorical` is the argmax of log-probabilities plus Gumbel noise; drawn ahead, for many tokens at once, the
    noise costs little.
    """
    drawn = jnp.argmax(_scale(logits, temperature) + noise, axis=-1)
    return jnp.where(temperature < TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def _scale(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    # Log-probabilities, up to the constant that a draw ignores. Relative to the largest, which stays 0, no
    # temperature turns all of them infinite, and no two of them are rounded together.
    log_probs = logits - jnp.max(logits, axis=-1, keepdims=True)
    return log_probs / jnp.where(temperature < TINY, 1.0, temperature)


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
    tokens: jax.Array,
    seeds: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[Carry, jax.Array, jax.Array]:
    """CHUNK tokens of S texts, each from the carry that all tokens before it left.

    Args:
      model: what generates.
      params: its parameters.
      carry: after all tokens but the last, batch S.
      tokens: int32[S], the last of each text.
      seeds: uint32[S], of the whole texts; the i-th tokens' keys depend on them and i, so that chunks are seamless.
      start: i of the first token.
      temperature: float32 scalar.

    Returns:
      (carry, tokens, int32[CHUNK, S]), the first two for the next call.
    """

    def logits_of(state: tuple[Carry, jax.Array]) -> tuple[jax.Array, Carry]:
        carry, tokens = state
        logits, carry = model.apply({"params": params}, tokens[:, None], carry)
        return logits[:, 0], carry

    def append(carry: Carry, tokens: jax.Array) -> tuple[Carry, jax.Array]:
        return carry, tokens

    (carry, tokens), written = _write(model, logits_of, append, (carry, tokens), seeds, start, temperature)
    return carry, tokens, written


@functools.partial(jax.jit, static_argnames="model")
def generate_window(
    model: LanguageModel,
    params: Params,
    windows: jax.Array,
    count: jax.Array,
    seeds: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CHUNK tokens of S texts, each from the window of tokens before it alone, read from a zero carry.

    Args:
      model: what generates.
      params: its parameters.
      windows: int32[S, T], the last tokens, the first `count` of it; what follows them is ignored.
      count: int32 scalar from 1 to T.
      seeds: as in generate_state.
      start: as in generate_state.
      temperature: float32 scalar.

    Returns:
      (windows, count, int32[CHUNK, S]), the first two for the next call.
    """
    length = windows.shape[1]

    def logits_of(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        windows, count = state
        carry = model.initial_carry(len(windows))
        states, _ = model.apply({"params": params}, windows, carry, method=model.states)
        # The recurrence is causal: the state at the last real token knows nothing of what follows it.
        return model.apply({"params": params}, states[:, count - 1], method=model.logits), state

    def append(state: tuple[jax.Array, jax.Array], tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        windows, count = state
        full = count == length
        windows = jnp.where(full, jnp.roll(windows, -1, axis=1), windows)
        count = jnp.where(full, count, count + 1)
        return windows.at[:, count - 1].set(tokens), count

    (windows, count), written = _write(model, logits_of, append, (windows, count), seeds, start, temperature)
    return windows, count, written


def _write(
    model: LanguageModel,
    logits_of: Callable[[Any], tuple[jax.Array, Any]],
    append: Callable[[Any, jax.Array], Any],
    state: Any,
    seeds: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[Any, jax.Array]:
    """Scans over CHUNK tokens: logits from the state, a draw, the token into the state."""
    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    # Not the key of the initial weights, even where a text has the seed of its run.
    keys = fold_in(jax.vmap(jax.random.key)(seeds), STREAM)
    steps = start + jnp.arange(CHUNK, dtype=jnp.uint32)

    if model.impl == "scan":  # The reference draws as it goes.
        draws = steps

        def draw(drawn: jax.Array, logits: jax.Array) -> jax.Array:
            return jax.vmap(next_token, (0, 0, None))(fold_in(keys, drawn), logits, temperature)

    else:

        def noise(key: jax.Array) -> jax.Array:
            return jax.random.gumbel(key, (model.vocabulary,))

        draws = jax.vmap(lambda i: jax.vmap(noise)(fold_in(keys, i)))(steps)

        def draw(drawn: jax.Array, logits: jax.Array) -> jax.Array:
            return pick_token(drawn, logits, temperature)

    def write(state: Any, drawn: jax.Array) -> tuple[Any, jax.Array]:
        logits, state = logits_of(state)
        tokens = draw(drawn, logits)
        return append(state, tokens), tokens

    return jax.lax.scan(write, state, draws)


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
        [text] = self.streams(SampleConfig(prompt, length, (temperature,), 1, seed, mode, unknown))
        return text

    def generate_batch(
        self,
        count: int,
        prompt: str | None = None,
        length: int = 400,
        *,
        temperature: float = 0.5,
        seed: int | None = None,
        mode: Mode | None = None,
        unknown: Unknown = "error",
    ) -> list[str]:
        """Writes on from a prompt `count` times, all at once, which is far faster than one after the other.

        Text i is what `generate` writes with seed + i, up to the rounding of sums that are taken in another order.

        Raises:
          ValueError: as in `generate`, or `count` is not 1 or more.
        """
        texts = self.streams(SampleConfig(prompt, length, (temperature,), count, seed, mode, unknown))
        return ["".join(pieces) for pieces in texts]

    def streams(self, config: SampleConfig) -> list[Iterator[str]]:
        """The texts that a config asks for, in pieces: `count` of them at each temperature in turn.

        Raises:
          ValueError: as in `generate`, and at once.
        """
        prompt = self.as_read(self.seed_text if config.prompt is None else config.prompt, config.unknown)
        if not prompt:
            raise InputError(
                "prompt: found no text that the model knows, expected at least one character; leave the prompt out "
                "for the run's own seed text"
            )
        seed = secrets.randbelow(2**32) if config.seed is None else config.seed
        seeds = (seed + np.arange(config.count)).astype(np.uint32)
        # Chunks that are needed for certain: a byte is at most a character, but a word may be many.
        needed = 1 if self.vocab.kind == "word" else -(-config.length // CHUNK)
        tokens, together = self.vocab.encode(prompt), max(1, DRAWS // (CHUNK * len(self.vocab)))
        texts = []
        for temperature in config.temperature:
            scale = np.float32(min(temperature, float(np.finfo(np.float32).max)))
            for start in range(0, config.count, together):
                group = seeds[start : start + together]
                chunks = self._chunks(config.mode or self.mode, tokens, group, scale, needed)
                copies = enumerate(itertools.tee(chunks, len(group)))
                texts += [self._cut(prompt, config.length, copy, column) for column, copy in copies]
        return texts

    def score(self, text: str, *, unknown: Unknown = "error") -> np.ndarray:
        """What the model thinks of a text: the log-probability of each token, given all before it.

        -score(text).mean(dtype=float) is the loss in nats per token.

        Args:
          text: at least two tokens; lowercased if the model has only seen such.
          unknown: `skip` drops characters from the text that the model has never seen.

        Returns:
          float32[N - 1], in nats, for the N tokens `vocab.encode` makes of the text: the first has nothing before it.

        Raises:
          ValueError: an argument is out of range, or the text is too short or has unknown characters.
        """
        if not isinstance(text, str):
            reject("text", text, "text")
        check_choice("unknown", unknown, get_args(Unknown))
        return score_carried(self.model, self.params, self.vocab.encode(self.as_read(text, unknown), "text"))

    def as_read(self, text: str, unknown: Unknown) -> str:
        """A text as the model takes it: lowercased if it has only seen such; `skip` drops unknown characters."""
        if self.lowercase:
            text = text.lower()
        if unknown == "skip":
            strange = set(self.vocab.unknown(text))
            text = "".join(character for character in text if character not in strange)
        return text

    def _chunks(
        self, mode: Mode, tokens: np.ndarray, seeds: np.ndarray, temperature: np.float32, needed: int
    ) -> Iterator[np.ndarray]:
        """Continuations of tokens, int32[CHUNK, S] at a time, without end.

        While one is looked at, the device computes the next, if it is among the first `needed`.
        """
        count = len(seeds)
        generate: Callable[..., Any]
        state: list[Any]
        if mode == "window":
            last = tokens[-self.length :]
            window = np.pad(last, (0, self.length - len(last)))
            generate, state = generate_window, [np.tile(window, (count, 1)), np.int32(len(last))]
        else:
            carry = jax.tree.map(lambda leaf: jnp.tile(leaf, (count, 1)), self._read(tokens[:-1]))
            generate, state = generate_state, [carry, np.tile(tokens[-1], count)]

        def next_chunk(number: int) -> jax.Array:
            nonlocal state
            # The index wraps around after 2**32 tokens.
            start = np.uint32(number * CHUNK % 2**32)
            *state, chunk = generate(self.model, self.params, *state, seeds, start, temperature)
            return chunk

        chunk = next_chunk(0)
        for number in itertools.count(1):
            following = next_chunk(number) if number < needed else None
            yield np.asarray(chunk)
            chunk = next_chunk(number) if following is None else following

    def _read(self, tokens: np.ndarray) -> Carry:
        """The carry after tokens, from the start of a text."""
        carry = self.model.initial_carry(1)
        for start in range(0, len(tokens), CHUNK):
            block = tokens[start : start + CHUNK]
            padded = np.pad(block, (0, CHUNK - len(block)))
            carry = prefill(self.model, self.params, carry, padded, np.int32(len(block)))
        return carry

    def _cut(self, prompt: str, length: int, chunks: Iterator[np.ndarray], column: int) -> Iterator[str]:
        """The prompt, then exactly `length` characters of the text in a column of the chunks."""
        yield prompt
        decode = self.vocab.decoder()
        while length > 0:
            piece = decode(next(chunks)[:, column], False)[:length]
            length -= len(piece)
            yield piece
