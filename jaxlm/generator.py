"""A trained model behind strings: text in, text out."""

import contextlib
import dataclasses
import functools
import itertools
import operator
import secrets
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import Mode, SampleConfig, Unknown
from jaxlm.errors import InputError, check_choice, reject
from jaxlm.nn.ambient import device_put, reproducible
from jaxlm.nn.counts import NetworkCounts, Table, make_table, prior_after, states_within
from jaxlm.nn.model import Carry, LanguageModel, Params, count_parameters
from jaxlm.nn.sampling import CHUNK, StateMemory, WindowMemory, generate, prefill
from jaxlm.nn.scoring import score_carried
from jaxlm.text.vocab import Vocab

DRAWS = 2**23
"""The most random numbers drawn together, 32 MB; texts that need more are generated in groups."""


class Drawing(TypedDict, total=False):
    """How a text is drawn; see `TextGenerator.generate`."""

    temperature: float
    seed: int | None
    mode: Mode | None
    unknown: Unknown


class Text(NamedTuple):
    """A text that is being generated.

    Attributes:
      temperature: its temperature.
      seed: the seed that repeats it.
      pieces: the prompt, then the continuation, piece by piece.
    """

    temperature: float
    seed: int
    pieces: Iterator[str]


@reproducible
def _to_host(chunk: jax.Array) -> np.ndarray:
    return np.asarray(chunk)  # Several times as fast as `jax.device_get`.


def _settings(count: int, prompt: str | None, length: int, drawing: Drawing) -> SampleConfig:
    settings: dict[str, Any] = dict(drawing)
    temperature = settings.pop("temperature", 0.5)
    return SampleConfig(prompt=prompt, length=length, temperature=(temperature,), count=count, **settings)


@dataclasses.dataclass(frozen=True, eq=False)
class TextGenerator:
    """A trained model that generates text.

    Attributes:
      model: the network.
      params: its parameters.
      vocab: text to tokens and back.
      lowercase: whether its corpus was lowercased; prompts then are, too.
      seed_text: the default prompt.
      length: T, tokens in the windows it was trained on.
      mode: how it was trained, and the default for generation.
      normalize: whether its corpus was normalized to Unicode's composed form, NFC; prompts then are, too.
      counts: the n-grams of its training text, if the network takes them; those of each network of an average.
    """

    model: LanguageModel
    params: Params
    vocab: Vocab
    lowercase: bool
    seed_text: str
    length: int
    mode: Mode
    normalize: bool = False
    counts: NetworkCounts = None

    def __repr__(self) -> str:
        return f"TextGenerator({count_parameters(self.params):,} parameters, {len(self.vocab):,} distinct tokens)"

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
        """Generates text that continues a prompt.

        Args:
          prompt: text to continue; by default the run's seed text.
          length: characters to generate.
          temperature: tokens are drawn from softmax(logits / temperature): 1 is the distribution as learned, and 0 (or
            anything below float32's smallest normal number) always takes the most probable token.
          seed: repeats a text exactly; random by default.
          mode: `window` predicts from the last T tokens and a zero state, as in training on windows; `state` carries
            the state from token to token. By default, as the model was trained.
          unknown: `skip` drops characters from the prompt that the model has never seen.

        Returns:
          The prompt as the model read it, and the continuation.

        Raises:
          ValueError: an argument is out of range, or the prompt is empty or has unknown characters.
        """
        return "".join(self.pieces(prompt, length, temperature=temperature, seed=seed, mode=mode, unknown=unknown))

    def pieces(self, prompt: str | None = None, length: int = 400, **drawing: Unpack[Drawing]) -> Iterator[str]:
        """The text of `generate` in pieces as they are drawn, the prompt first; bad arguments raise immediately."""
        [text] = self.texts(_settings(1, prompt, length, drawing))
        return text.pieces

    def generate_batch(
        self, count: int, prompt: str | None = None, length: int = 400, **drawing: Unpack[Drawing]
    ) -> list[str]:
        """Generates `count` texts that continue a prompt, in a batch, which is far faster than one by one.

        Text i is that of `generate` with seed + i, up to the rounding of sums in another order.

        Raises:
          ValueError: as in `generate`, or `count` is not 1 or more.
        """
        return ["".join(text.pieces) for text in self.texts(_settings(count, prompt, length, drawing))]

    def texts(self, config: SampleConfig) -> list[Text]:
        """The texts for a config: `count` of them at each temperature.

        Raises:
          ValueError: as in `generate`, before anything is generated.
        """
        prompt = self.as_read(self.seed_text if config.prompt is None else config.prompt, config.unknown)
        if not prompt:
            raise InputError(
                "prompt: found no text that the model knows, expected at least one character; leave the prompt out "
                "for the run's seed text"
            )
        seed = secrets.randbelow(2**32) if config.seed is None else config.seed
        seeds = (seed + np.arange(config.count)).astype(np.uint32)
        # The chunks that are certainly needed: a byte is at most one character, but a word may be many.
        needed = 1 if self.vocab.kind == "word" else -(-config.length // CHUNK)
        tokens, together = self.vocab.encode(prompt), max(1, DRAWS // (CHUNK * len(self.vocab)))
        texts = []
        for temperature in config.temperature:
            scale = np.float32(min(temperature, float(np.finfo(np.float32).max)))
            for start in range(0, config.count, together):
                group = seeds[start : start + together]
                chunks = itertools.tee(self._chunks(config.mode or self.mode, tokens, group, scale, needed), len(group))
                for column, (text_seed, copy) in enumerate(zip(group, chunks, strict=True)):
                    pieces = self._cut(prompt, config.length, copy, column)
                    texts.append(Text(temperature, int(text_seed), pieces))
        return texts

    def score(self, text: str, *, unknown: Unknown = "error") -> np.ndarray:
        """The log-probability of each token of a text, given all previous ones.

        -score(text).mean(dtype=float) is the loss in nats per token.

        Args:
          text: at least two tokens; lowercased and normalized as prompts are.
          unknown: `skip` drops characters from the text that the model has never seen.

        Returns:
          float32[N - 1], in nats, for the N tokens of the text: the first has no score.

        Raises:
          ValueError: an argument is out of range, or the text is too short or has unknown characters.
        """
        if not isinstance(text, str):
            reject("text", text, "text")
        check_choice("unknown", unknown, get_args(Unknown))
        ids = self.vocab.encode(self.as_read(text, unknown), "text")
        return score_carried(self.model, self.params, ids, counts=self.counts)

    def as_read(self, text: str, unknown: Unknown) -> str:
        """A text as the model reads it: lowercased and normalized as its corpus was; `skip` drops unknown characters.

        A model whose corpus was not normalized may know only the composed or only the decomposed form of a text. They
        look the same, so the known one is used.
        """
        if self.lowercase:
            text = text.lower()
        if self.normalize:
            text = unicodedata.normalize("NFC", text)
        elif self.vocab.unknown(text):
            forms = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
            text = next((form for form in forms if not self.vocab.unknown(form)), text)
        if unknown == "skip":
            strange = set(self.vocab.unknown(text))
            text = "".join(character for character in text if character not in strange)
        return text

    def _chunks(
        self, mode: Mode, tokens: np.ndarray, seeds: np.ndarray, temperature: np.float32, needed: int
    ) -> Iterator[np.ndarray]:
        """Yields endless continuations of `tokens`, int32[CHUNK, S] at a time.

        While the caller uses one chunk, the device computes the next, if that is among the first `needed`.
        """
        memory = self._memory(mode, tokens, len(seeds))

        def next_chunk(number: int) -> jax.Array:
            nonlocal memory
            # The index wraps around after 2**32 tokens.
            start = np.uint32(number * CHUNK % 2**32)
            memory, chunk = generate(self.model, self.params, memory, seeds, start, temperature, self._table)
            return chunk

        chunk = next_chunk(0)
        try:
            for number in itertools.count(1):
                following = next_chunk(number) if number < needed else None
                yield _to_host(chunk)
                chunk = next_chunk(number) if following is None else following
        finally:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # Which was raised before.
                jax.block_until_ready(memory)  # A process that ends while its device computes may crash.

    @reproducible
    def _memory(self, mode: Mode, tokens: np.ndarray, count: int) -> Any:
        """The memory of `count` texts that begin with these tokens."""
        if mode == "window":
            last = tokens[-self.length :]
            window = np.pad(last, (0, self.length - len(last)))
            return WindowMemory(jnp.tile(window, (count, 1)), jnp.int32(len(last)))
        states = states_within(self.counts, tokens)
        read = self._read(tokens[:-1], jax.tree.map(lambda states: states[1:-1], states))
        carry = jax.tree.map(lambda leaf: jnp.tile(leaf, (count, 1)), read)
        nodes = jax.tree.map(lambda states: jnp.tile(states[-1], count), states)
        return StateMemory(carry, jnp.tile(tokens[-1], count), nodes)

    @functools.cached_property
    def _table(self) -> Table | None:
        return device_put(jax.tree.map(make_table, self.counts))

    def _read(self, tokens: np.ndarray, states: Any) -> Carry:
        """The carry after reading tokens from the start of a text; `states` are the contexts after each."""
        carry = self.model.initial_carry(1)
        missing = -len(tokens) % CHUNK
        blocks = np.pad(tokens, (0, missing)).reshape(-1, CHUNK)
        rows = jax.tree.map(lambda states: np.pad(states, (0, missing)).reshape(-1, CHUNK), states)
        for number, block in enumerate(blocks):
            given = prior_after(self.counts, jax.tree.map(operator.itemgetter(number), rows))
            count = np.int32(min(CHUNK, len(tokens) - number * CHUNK))
            carry = prefill(self.model, self.params, carry, block, count, given)
        return carry

    def _cut(self, prompt: str, length: int, chunks: Iterator[np.ndarray], column: int) -> Iterator[str]:
        """Yields the prompt, then exactly `length` characters from a column of the chunks."""
        yield prompt
        decode = self.vocab.decoder()
        while length > 0:
            piece = decode(next(chunks)[:, column], False)[:length]
            length -= len(piece)
            yield piece
