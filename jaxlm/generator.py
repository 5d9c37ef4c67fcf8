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
from jaxlm.nn.ambient import device_get, device_put, reproducible
from jaxlm.nn.counts import NetworkCounts, Table, make_table, prior_after
from jaxlm.nn.model import Carry, LanguageModel, Params, count_parameters
from jaxlm.nn.sampling import CHUNK, Draw, History, StateMemory, WindowMemory, extend, generate, predict, prefill
from jaxlm.nn.scoring import score_carried
from jaxlm.text.scores import Scores, by_character
from jaxlm.text.stops import until, without_leading
from jaxlm.text.vocab import Vocab

DRAWS = 2**23
"""The most random numbers drawn together, 32 MB; texts that need more are generated in groups."""

LINE_END = "\n"

BEAM = 32
"""The beginnings of words that a search for the next word follows at once."""

WORD_TOKENS = 24
"""The most tokens of a word that is found; what is longer, as where no spaces divide words, is cut here."""


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


class Passage(NamedTuple):
    """A text that a model has read, with its memory of it. It never changes, so each may be continued in many ways.

    Attributes:
      text: as the model read it.
      tokens: int32[N], of the text.
      mode: how it is continued; as in `TextGenerator.generate`.
      carry: after all tokens but the last; None in windows.
    """

    text: str
    tokens: np.ndarray
    mode: Mode
    carry: Carry | None


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


def _in_word(character: str) -> bool:
    """Whether a character is a letter, a digit, or a mark on one."""
    return unicodedata.category(character)[0] in "LNM"


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
        needed = self._needed(config)
        mode = config.mode or self.mode
        ids = {prompt: self.vocab.encode(prompt) for prompt in dict.fromkeys(prompts)}
        tokens = [ids[prompt] for prompt in prompts]
        texts: list[Text] = []
        for temperature in config.temperature:
            draw = _draw(config, temperature)
            written: dict[int, Text] = {}
            for rows in self._groups(mode, tokens):
                memory = self._memory(mode, [tokens[row] for row in rows], draw)
                chunks = self._chunks(memory, seeds[rows], draw, needed)
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

    def read(
        self, text: str, known: Sequence[Passage] = (), *, mode: Mode | None = None, unknown: Unknown = "error"
    ) -> Passage:
        """Reads a text, to continue it at once with `continuation` or `next_words`.

        Args:
          text: at least one character.
          known: passages of this generator, in this mode. What the longest of them that the text begins with has read,
            is not read again.
          mode: as in `generate`.
          unknown: as in `generate`.

        Raises:
          ValueError: the text is empty or has unknown characters.
        """
        config = SampleConfig(prompt=text, mode=mode, unknown=unknown)
        read = self._prompt(config)
        tokens, way = self.vocab.encode(read, "text"), config.mode or self.mode
        if way == "window":
            return Passage(read, tokens, way, None)
        shorter = (one for one in known if len(one.tokens) <= len(tokens))
        begun = [one for one in shorter if np.array_equal(one.tokens[:-1], tokens[: len(one.tokens) - 1])]
        before = max(begun, key=lambda one: len(one.tokens), default=None)
        if before is None:
            return Passage(read, tokens, way, self._read(tokens[:-1]))
        return Passage(read, tokens, way, self._read(tokens[:-1], len(before.tokens) - 1, before.carry))

    def continuation(self, passage: Passage, config: SampleConfig) -> Iterator[str]:
        """What `generate` writes after a passage's text with the same settings, in pieces as they are drawn.

        Args:
          passage: of this generator.
          config: how to continue it; its prompt, count, lines, mode and unknown are not used. A seed of None is 0.
        """
        draw = _draw(config, config.temperature[0])
        memory = self._memory_after([passage.tokens], passage.carry, draw)
        chunks = self._chunks(memory, np.array([config.seed or 0], np.uint32), draw, self._needed(config))
        pieces = self._decode(config.length, chunks, 0)
        return until(pieces, config.stop_strings, config.keep_stop) if config.stop_strings else pieces

    def next_words(self, passage: Passage, count: int) -> list[tuple[str, float]]:
        """The most probable next words after a passage, as the model learned, found by beam search.

        A word is what follows up to the end of the next word: with the spaces and marks before it, or only the rest of
        a word that the passage ends in.

        Args:
          passage: of this generator.
          count: how many to find, at most.

        Returns:
          Each word, and the probability that the text goes on with it and then with no letter or digit; the most
          probable first.
        """
        # A byte of a longer character is only known to end a word once the character is complete.
        is_byte = self.vocab.kind == "byte"
        ends = np.array([not _in_word(token[0]) and not (is_byte and token > "\x7f") for token in self.vocab.tokens])
        memory = self._beginning(passage)
        rows, tokens = np.zeros(BEAM, np.int32), np.full(BEAM, passage.tokens[-1], np.int32)
        found: dict[str, float] = collections.defaultdict(float)
        beam: list[tuple[tuple[int, ...], str, float]] = [((), "", 1.0)]
        for _ in range(WORD_TOKENS):
            memory, after = extend(self.model, self.params, memory, rows, tokens, self._table)
            joint = _to_host(after)[: len(beam)] * np.array([probability for *_, probability in beam])[:, None]
            for (_, begun, _), row in zip(beam, joint, strict=True):
                if any(map(_in_word, begun)):
                    found[begun] += float(row[ends].sum())
                    row[ends] = 0
            best = np.argsort(-joint, axis=None, kind="stable")[:BEAM]
            parents, following = np.unravel_index(best[joint.ravel()[best] > 0], joint.shape)
            longer = []
            for parent, token in zip(parents.tolist(), following.tolist(), strict=True):
                ids, probability = (*beam[parent][0], token), float(joint[parent, token])
                begun = self.vocab.decoder()(ids, False)
                if is_byte and begun and not _in_word(begun[-1]) and any(map(_in_word, begun)):
                    found[begun[:-1]] += probability
                else:
                    longer.append((parent, (ids, begun, probability)))
            beam = [begun for _, begun in longer]
            kept = sorted(found.values(), reverse=True)[count - 1 : count]
            if not beam or (kept and kept[0] >= max(probability for *_, probability in beam)):
                break
            missing = BEAM - len(beam)
            rows = np.array([parent for parent, _ in longer] + [0] * missing, np.int32)
            tokens = np.array([ids[-1] for ids, *_ in beam] + [0] * missing, np.int32)
        else:
            for _, begun, probability in beam:
                found[begun] += probability
        return sorted(found.items(), key=lambda one: -one[1])[:count]

    def score(self, text: str, *, unknown: Unknown = "error") -> Scores:
        """The log-probability of each token of a text, given all previous ones.

        -score(text).mean(dtype=float) is the loss in nats per token.

        Args:
          text: at least two tokens; lowercased and normalized as prompts are.
          unknown: `skip` drops characters from the text that the model has never seen.

        Returns:
          float32[N - 1], in nats, for the N tokens of the text: the first has no score. A notebook shows this array as
          the text, tinted.

        Raises:
          ValueError: an argument is out of range, or the text is too short or has unknown characters.
        """
        if not isinstance(text, str):
            reject("text", text, "text")
        check_choice("unknown", unknown, get_args(Unknown))
        read = self.as_read(text, unknown)
        ids = self.vocab.encode(read, "text")
        scores = score_carried(self.model, self.params, ids, counts=self.counts)
        return Scores.of(scores, read, self.vocab.widths[ids])

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
        return by_character(text, self.vocab.widths[ids], scores)

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

    def _needed(self, config: SampleConfig) -> int:
        """The chunks that are certainly needed: a byte is at most one character, but a word may be many."""
        is_known = self.vocab.kind != "word" and not config.stop_strings and not config.lines
        return -(-config.length // CHUNK) if is_known else 1

    def _chunks(self, memory: Any, seeds: np.ndarray, draw: Draw, needed: int) -> Iterator[np.ndarray]:
        """Yields endless continuations of the S texts of a memory, int32[CHUNK, S] at a time.

        While the caller uses one chunk, the device computes the next, if that is among the first `needed`.
        """

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
        distinct, rows = _numbered(prompts)
        carry = None
        if mode == "state":
            # On the host, where nothing need be compiled for another number of prompts.
            carries = device_get([self._read(tokens[:-1]) for tokens in distinct])
            carry = device_put(jax.tree.map(lambda *leaves: np.concatenate(leaves)[rows], *carries))
        return self._memory_after(prompts, carry, draw)

    @reproducible
    def _memory_after(self, prompts: Sequence[np.ndarray], carry: Carry | None, draw: Draw) -> Any:
        """The memory of texts whose tokens but the last were read; a carry of None means windows."""
        history = None if draw.no_repeat is None else jax.tree.map(jnp.asarray, History.of(prompts))
        if carry is None:
            return self._windows(prompts, history)
        last = np.array([tokens[-1] for tokens in prompts])
        return StateMemory(carry, jnp.asarray(last), self._nodes(prompts), history)

    @reproducible
    def _beginning(self, passage: Passage) -> Any:
        """The memory of BEAM texts that are a passage without its last token, for `extend` to append it."""
        before = [passage.tokens[:-1]] * BEAM
        if passage.carry is None:
            return self._windows(before, None)
        carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, BEAM, 0), passage.carry)
        return StateMemory(carry, jnp.zeros(BEAM, jnp.int32), self._nodes(before))

    def _windows(self, prompts: Sequence[np.ndarray], history: History | None) -> WindowMemory:
        last = [tokens[-self.length :] for tokens in prompts]
        filled = len(last[0])
        windows = np.pad(np.stack(last), ((0, 0), (0, self.length - filled)))
        return WindowMemory(jnp.asarray(windows), jnp.int32(filled), history)

    def _nodes(self, prompts: Sequence[np.ndarray]) -> Any:
        """The n-grams' contexts after some texts, int32[S], which depend on their last tokens alone."""
        distinct, rows = _numbered(prompts)

        def after(one: Any) -> jax.Array:
            return jnp.asarray(np.array([one.states(tokens[-one.order :])[-1] for tokens in distinct])[rows])

        return jax.tree.map(after, self.counts)

    @functools.cached_property
    def _table(self) -> Table | None:
        return device_put(jax.tree.map(make_table, self.counts))

    @reproducible
    def _read(self, tokens: np.ndarray, start: int = 0, carry: Carry | None = None) -> Carry:
        """The carry after reading a text's tokens; from `start` on, if the carry after those before is given."""
        carry = self.model.initial_carry(1) if carry is None else carry
        count = len(tokens) - start
        missing = -count % CHUNK
        blocks = np.pad(tokens[start:], (0, missing)).reshape(-1, CHUNK)

        def contexts(one: Any) -> np.ndarray:
            """After each token that is read."""
            known = min(start, one.order)
            return np.pad(one.states(tokens[start - known :])[known + 1 :], (0, missing)).reshape(-1, CHUNK)

        states = jax.tree.map(contexts, self.counts)
        for number, block in enumerate(blocks):
            given = prior_after(self.counts, jax.tree.map(operator.itemgetter(number), states))
            carry = prefill(self.model, self.params, carry, block, np.int32(min(CHUNK, count - number * CHUNK)), given)
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
