"""A trained model behind strings: text in, text out."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import operator
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import Mode, SampleConfig, Unknown
from jaxlm.errors import InputError, check_choice, reject
from jaxlm.nn.ambient import device_put, reproducible
from jaxlm.nn.counts import NetworkCounts, Table, make_table, prior_after, states_within
from jaxlm.nn.model import Carry, LanguageModel, Params, count_parameters
from jaxlm.nn.sampling import CHUNK, Draw, History, StateMemory, WindowMemory, generate, predict, prefill
from jaxlm.nn.scoring import score_carried
from jaxlm.text.stops import until, without_leading
from jaxlm.text.vocab import Vocab

DRAWS = 2**23
"""The most random numbers drawn together, 32 MB; texts that need more are generated in groups."""


LINE_END = "\n"


class Drawing(TypedDict, total=False):
    """How a text is drawn; see `TextGenerator.generate`."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    no_repeat_ngram_size: int | None
    stop_strings: str | Sequence[str]
    keep_stop: bool
    seed: int | None
    mode: Mode | None
    unknown: Unknown


class Text(NamedTuple):
    """A text that is being generated.

    Attributes:
      temperature: its temperature.
      seed: the seed that repeats it.
      pieces: the prompt, then the continuation, piece by piece.
      prompt: as the model read it.
    """

    temperature: float
    seed: int
    pieces: Iterator[str]
    prompt: str


@reproducible
def _to_host(chunk: jax.Array) -> np.ndarray:
    return np.asarray(chunk)  # Several times as fast as `jax.device_get`.


def _settings(count: int, prompt: str | None, length: int, drawing: Drawing) -> SampleConfig:
    settings: dict[str, Any] = dict(drawing)
    temperature = settings.pop("temperature", 0.5)
    return SampleConfig(prompt=prompt, length=length, temperature=(temperature,), count=count, **settings)


def _numbered(prompts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """The distinct ones of some prompts, and the number there of each."""
    contents = [tokens.tobytes() for tokens in prompts]
    distinct = dict(zip(contents, prompts, strict=True))
    numbers = {content: number for number, content in enumerate(distinct)}
    return list(distinct.values()), np.array([numbers[content] for content in contents])


def _draw(config: SampleConfig, temperature: float) -> Draw:
    return Draw.of(temperature, config.top_k, config.top_p, config.min_p, config.no_repeat_ngram_size)


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
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        no_repeat_ngram_size: int | None = None,
        stop_strings: str | Sequence[str] = (),
        keep_stop: bool = False,
        seed: int | None = None,
        mode: Mode | None = None,
        unknown: Unknown = "error",
    ) -> str:
        """Generates text that continues a prompt.

        Of tokens that are equally probable, `top_k`, `top_p` and temperature 0 prefer the one that is first in the
        vocabulary. Where `no_repeat_ngram_size` would ban all tokens, it bans none.

        Args:
          prompt: text to continue; by default the run's seed text.
          length: characters to generate.
          temperature: tokens are drawn from softmax(logits / temperature): 1 is the distribution as learned, and 0 (or
            anything below float32's smallest normal number) always takes the most probable token.
          top_k: draws one of this many most probable tokens; applied after the temperature, as all of these are.
          top_p: draws one of the most probable tokens that together have this probability, after `top_k`; 1 is off.
          min_p: draws no token that is less than this times as probable as the most probable one; 0 is off.
          no_repeat_ngram_size: never repeats this many tokens in a row that stand in the last 4,096 of prompt and text;
            applied first, at temperature 0, too.
          stop_strings: the text ends before the first of these that is generated.
          keep_stop: the text ends after it instead.
          seed: repeats a text exactly; random by default.
          mode: `window` predicts from the last T tokens and a zero state, as in training on windows; `state` carries
            the state from token to token. By default, as the model was trained.
          unknown: `skip` drops characters from the prompt that the model has never seen.

        Returns:
          The prompt as the model read it, and the continuation.

        Raises:
          ValueError: an argument is out of range, or the prompt is empty or has unknown characters.
        """
        return "".join(
            self.pieces(
                prompt,
                length,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                no_repeat_ngram_size=no_repeat_ngram_size,
                stop_strings=stop_strings,
                keep_stop=keep_stop,
                seed=seed,
                mode=mode,
                unknown=unknown,
            )
        )

    def pieces(self, prompt: str | None = None, length: int = 400, **drawing: Unpack[Drawing]) -> Iterator[str]:
        """The text of `generate` in pieces as they are drawn, the prompt first; bad arguments raise immediately."""
        [text] = self.texts(_settings(1, prompt, length, drawing))
        return text.pieces

    def generate_batch(
        self, count: int | Sequence[str], prompt: str | None = None, length: int = 400, **drawing: Unpack[Drawing]
    ) -> list[str]:
        """Generates texts in a batch, which is far faster than one by one.

        Text i is that of `generate` with seed + i, up to the rounding of sums in another order.

        Args:
          count: how many texts continue the prompt; or a list of prompts, for a text that continues each.
          prompt: as in `generate`, if `count` is a number.
          length: as in `generate`.
          **drawing: as in `generate`.

        Raises:
          ValueError: as in `generate`, or `count` is neither 1 or more nor a list of prompts.
        """
        if not isinstance(count, list | tuple):
            texts = self.texts(_settings(cast(int, count), prompt, length, drawing))
        elif prompt is not None:
            reject("prompt", prompt, "none beside a list of prompts", "leave out one of the two")
        else:
            config = _settings(len(count), None, length, drawing)
            texts = self._texts([self._prompt(dataclasses.replace(config, prompt=one)) for one in count], config)
        return ["".join(text.pieces) for text in texts]

    def next_token(
        self,
        prompt: str | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        no_repeat_ngram_size: int | None = None,
        mode: Mode | None = None,
        unknown: Unknown = "error",
    ) -> dict[str, float]:
        """The distribution from which `generate` draws the first token after a prompt.

        Args: as in `generate`.

        Returns:
          The probability of each token, the most probable first; without those that cannot be drawn. Of byte tokens,
          each is the character with the byte's number.

        Raises:
          ValueError: as in `generate`.
        """
        config = SampleConfig(
            prompt=prompt,
            temperature=(temperature,),
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            no_repeat_ngram_size=no_repeat_ngram_size,
            mode=mode,
            unknown=unknown,
        )
        draw = _draw(config, temperature)
        memory = self._memory(config.mode or self.mode, [self.vocab.encode(self._prompt(config))], draw)
        [probabilities] = _to_host(predict(self.model, self.params, memory, draw, self._table))
        order = np.argsort(-probabilities, kind="stable")
        return {self.vocab.tokens[i]: float(probabilities[i]) for i in order if probabilities[i] > 0}

    def texts(self, config: SampleConfig) -> list[Text]:
        """The texts for a config: `count` of them, or `lines`, at each temperature.

        Raises:
          ValueError: as in `generate`, before anything is generated; or `lines` are asked of a model without line ends.
        """
        return self._texts([self._prompt(config)] * (config.lines or config.count), config)

    def _prompt(self, config: SampleConfig) -> str:
        """The prompt as the model reads it; of a single line, after the line end before it."""
        text = self.seed_text if config.prompt is None else config.prompt
        if config.lines:
            if self.vocab.unknown(LINE_END):
                reject("lines", config.lines, "none of a model that has never seen a line end", "leave it out")
            text = LINE_END + (config.prompt or "")
        prompt = self.as_read(text, config.unknown)
        if not prompt:
            raise InputError(
                "prompt: found no text that the model knows, expected at least one character; leave the prompt out "
                "for the run's seed text"
            )
        return prompt

    def _texts(self, prompts: Sequence[str], config: SampleConfig) -> list[Text]:
        """A text that continues each prompt, at each temperature."""
        seed = secrets.randbelow(2**32) if config.seed is None else config.seed
        seeds = (seed + np.arange(len(prompts))).astype(np.uint32)
        # The chunks that are certainly needed: a byte is at most one character, but a word may be many.
        is_known = self.vocab.kind != "word" and not config.stop_strings and not config.lines
        needed = -(-config.length // CHUNK) if is_known else 1
        mode = config.mode or self.mode
        ids = {prompt: self.vocab.encode(prompt) for prompt in dict.fromkeys(prompts)}
        tokens = [ids[prompt] for prompt in prompts]
        texts: list[Text] = []
        for temperature in config.temperature:
            draw = _draw(config, temperature)
            written: dict[int, Text] = {}
            for rows in self._groups(mode, tokens):
                chunks = self._chunks(mode, [tokens[row] for row in rows], seeds[rows], draw, needed)
                for column, (row, copy) in enumerate(zip(rows, itertools.tee(chunks, len(rows)), strict=True)):
                    pieces = self._cut(prompts[row], config, copy, column)
                    written[row] = Text(temperature, int(seeds[row]), pieces, prompts[row])
            texts += [written[row] for row in range(len(prompts))]
        return texts

    def _groups(self, mode: Mode, prompts: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """The prompts' numbers, in groups whose texts are generated together: their windows are filled alike."""
        together = max(1, DRAWS // (CHUNK * len(self.vocab)))
        alike = collections.defaultdict(list)
        for row, tokens in enumerate(prompts):
            alike[min(len(tokens), self.length) if mode == "window" else 0].append(row)
        for rows in alike.values():
            for start in range(0, len(rows), together):
                yield rows[start : start + together]

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

    def surprises(self, prompt: str, text: str) -> list[tuple[str, float]]:
        """How little the model, as it learned, expected each part of a text after a prompt and what came before it.

        Args:
          prompt: at least one character, as the model reads it (`as_read`).
          text: that follows it, likewise.

        Returns:
          Each token's characters, and -log of its probability, in nats. Bytes are taken together to characters.
        """
        ids = self.vocab.encode(text, "text")
        if not len(ids):
            return []
        whole = np.concatenate([self.vocab.encode(prompt), ids])
        scores = score_carried(self.model, self.params, whole, counts=self.counts)[-len(ids) :]
        widths = self.vocab.widths[ids]
        starts = np.flatnonzero(widths)
        sums, ends = -np.add.reduceat(scores.astype(float), starts), np.cumsum(widths[starts])
        return [
            (text[end - width : end], float(value))
            for end, width, value in zip(ends, widths[starts], sums, strict=True)
        ]

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
        self, mode: Mode, prompts: Sequence[np.ndarray], seeds: np.ndarray, draw: Draw, needed: int
    ) -> Iterator[np.ndarray]:
        """Yields endless continuations of S prompts' tokens, int32[CHUNK, S] at a time.

        While the caller uses one chunk, the device computes the next, if that is among the first `needed`.
        """
        memory = self._memory(mode, prompts, draw)

        def next_chunk(number: int) -> jax.Array:
            nonlocal memory
            # The index wraps around after 2**32 tokens.
            start = np.uint32(number * CHUNK % 2**32)
            memory, chunk = generate(self.model, self.params, memory, seeds, start, draw, self._table)
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
    def _memory(self, mode: Mode, prompts: Sequence[np.ndarray], draw: Draw) -> Any:
        """The memory of texts that begin with these tokens; in windows, with equally many."""
        history = None if draw.no_repeat is None else jax.tree.map(jnp.asarray, History.of(prompts))
        if mode == "window":
            last = [tokens[-self.length :] for tokens in prompts]
            filled = len(last[0])
            windows = np.pad(np.stack(last), ((0, 0), (0, self.length - filled)))
            return WindowMemory(jnp.asarray(windows), jnp.int32(filled), history)
        distinct, rows = _numbered(prompts)
        states = [states_within(self.counts, tokens) for tokens in distinct]
        carries = [
            self._read(tokens[:-1], jax.tree.map(lambda states: states[1:-1], one))
            for tokens, one in zip(distinct, states, strict=True)
        ]
        carry = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[rows], *carries)
        nodes = jax.tree.map(lambda *leaves: jnp.asarray(np.array([leaf[-1] for leaf in leaves])[rows]), *states)
        return StateMemory(carry, jnp.asarray(np.array([tokens[-1] for tokens in prompts])), nodes, history)

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

    def _cut(self, prompt: str, config: SampleConfig, chunks: Iterator[np.ndarray], column: int) -> Iterator[str]:
        """Yields the prompt, then a column of the chunks as text, as long and up to what the config says."""
        pieces, stops = self._decode(config.length, chunks, column), config.stop_strings
        if config.lines:
            prompt, stops = prompt.removeprefix(LINE_END), (*stops, LINE_END)
            if not prompt:
                pieces = without_leading(pieces, LINE_END)
        yield prompt
        yield from until(pieces, stops, config.keep_stop) if stops else pieces

    def _decode(self, length: int, chunks: Iterator[np.ndarray], column: int) -> Iterator[str]:
        """Yields exactly `length` characters from a column of the chunks."""
        decode = self.vocab.decoder()
        while length > 0:
            piece = decode(next(chunks)[:, column], False)[:length]
            length -= len(piece)
            yield piece
