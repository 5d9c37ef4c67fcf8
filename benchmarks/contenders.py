"""The contenders. Each runs in its own process, and does a round of work whenever asked.

`python -m benchmarks.contenders NAME` reads a number of units from each line of its input, does that many, and
answers with the seconds they took. Peers run the code that their users write. The book's step is `jaxlm.train`
itself, and `TextGenerator` generates the texts.
"""

import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxlm.config import SIZES, ModelConfig, TrainConfig

V, H, T, B = 57, 128, 60, 128
"""The book's: vocabulary, units, window, batch."""

LARGE = {"hidden": 512, "layers": 2, "length": 128, "batch": 64}
"""A model that predicts at every position."""

STREAMS = {
    "small": SIZES["small"],
    "1x256": dataclasses.replace(
        SIZES["small"], learning_rate=0.012, model=dataclasses.replace(SIZES["small"].model, hidden=256)
    ),
    "medium": SIZES["medium"],
    "large": SIZES["large"],
}
"""The stream recipe's sizes, and its network for tiny Shakespeare."""

CHARACTERS = 600_000
"""Of the corpus, about as many as Nietzsche's text has; their order does not matter for speed."""


class Rounds:
    """The work that is asked for."""

    def __iter__(self) -> Iterator[int]:
        for line in sys.stdin:
            yield int(line)

    def report(self, seconds: float) -> None:
        """Answers the last request."""
        os.write(ANSWERS, f"{seconds}\n".encode())


ANSWERS = 1
"""Where answers go: standard output, until what others print there is sent elsewhere."""

CONTENDERS: dict[str, Callable[[Rounds], None]] = {}


def contender(function: Callable[[Rounds], None]) -> Callable[[Rounds], None]:
    """Enters a function under its name."""
    CONTENDERS[function.__name__] = function
    return function


PACE_SECONDS = 5.0
"""How long a run of jaxlm trains before it is timed, its compilation not counted."""


def timed(rounds: Rounds, work: Callable[[int], None]) -> None:
    """Does `work` whenever asked."""
    for units in rounds:
        began = time.perf_counter()
        work(units)
        rounds.report(time.perf_counter() - began)


def random_text() -> str:
    """A corpus of V distinct characters."""
    letters = np.array([chr(ord("!") + i) for i in range(V)])
    return "".join(np.random.default_rng(0).choice(letters, CHARACTERS))


def made_up_text(characters: int) -> str:
    """Words of a made-up language, of which common ones are common: the same on every machine."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, 97 + rng.integers(0, 26, length))) for length in rng.integers(2, 9, 1000)]
    ranks = (1000 ** rng.random(characters // 5)).astype(int) - 1
    return " ".join(words[rank] for rank in ranks)[:characters]


def random_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, CHARACTERS)


# jaxlm


def train(rounds: Rounds, config: TrainConfig, text: str) -> None:
    """`jaxlm.train` itself, which stops between steps while others have their turn."""
    import jaxlm
    from jaxlm.runs import trainer

    class Turns:
        """Lets the trainer find its pace, then keeps it; and takes the time from the end of a call to that of another.

        In a pause, the call ends that was under way.
        """

        def __init__(self) -> None:
            self.asked = iter(rounds)
            self.units = next(self.asked)
            self.paced_from: float | None = None
            self.began: tuple[int, float] | None = None
            self.pausing = False

        def ended(self, step: int) -> None:
            """A call has ended, whose last step this was."""
            now = time.perf_counter()
            self.paced_from = self.paced_from or now
            if now - self.paced_from < PACE_SECONDS:
                return
            trainer._Pace.adapt = lambda pace, steps: None
            if self.pausing:
                self.pausing = False
            elif self.began is None:
                self.began = step, now
            elif step - self.began[0] >= self.units:
                rounds.report((now - self.began[1]) * self.units / (step - self.began[0]))
                try:
                    self.units = next(self.asked)
                except StopIteration:
                    raise SystemExit from None
                self.began, self.pausing = None, True

    settle = trainer._Tally.settle

    def settled(tally: trainer._Tally) -> None:
        had_call = tally._pending is not None
        settle(tally)
        if had_call:
            turns.ended(tally.step)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        path.write_text(text)
        config = dataclasses.replace(config, corpus=(str(path),), lowercase=False)
        turns = Turns()
        trainer._Tally.settle = settled
        jaxlm.train(config, run="run", checkpoints=folder)


@contender
def jaxlm_book(rounds: Rounds) -> None:
    import jaxlm

    train(rounds, jaxlm.BOOK, random_text())


@contender
def jaxlm_book_reference(rounds: Rounds) -> None:
    import jaxlm

    train(rounds, dataclasses.replace(jaxlm.BOOK, impl="scan"), random_text())


def multiply(rounds: Rounds, hidden: int, layers: int, length: int, batch: int) -> None:
    """The matrix products alone that a step cannot do without, on every core: of the recurrent kernels in the loops,
    for their gradients, and of the input kernels but the first, whose products are rows of it."""
    import jax
    from jax.sharding import PartitionSpec

    from jaxlm.nn import lstm, sharding

    sharding.split_cpu()
    mesh = sharding.make_mesh(batch)
    # As in the step, a text is a row of what is multiplied, or a column.
    columns = lstm._loops().in_columns(batch // mesh.size, length, hidden)

    def times(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return kernel @ x if columns else x @ kernel

    def gradient(x: jax.Array, dout: jax.Array) -> jax.Array:
        return x @ dout.T if columns else x.T @ dout

    units = np.s_[:hidden] if columns else np.s_[:, :hidden]

    def products(h: jax.Array, dz: jax.Array, hs: list, dzs: list, kernels: list):
        made = []
        for i, kernel in enumerate(kernels):
            kernel, transposed = (kernel.T, kernel) if columns else (kernel, kernel.T)
            made.append(jax.lax.fori_loop(0, length, lambda _, h: times(h, kernel)[units], h))  # noqa: B023
            made.append(jax.lax.fori_loop(0, length, lambda _, dz: dz.at[units].set(times(dz, transposed)), dz))  # noqa: B023
            made.append(gradient(hs[i], dzs[i]))
            if i:
                made += [times(hs[i - 1], kernel), times(dzs[i], transposed), gradient(hs[i - 1], dzs[i])]
        return made

    split = PartitionSpec(None, "data") if columns else PartitionSpec("data")
    step = jax.jit(
        jax.shard_map(products, mesh=mesh, in_specs=(split,) * 4 + (PartitionSpec(),), out_specs=split, check_vma=False)
    )
    place = jax.NamedSharding(mesh, split)

    def ones(texts: int, width: int) -> jax.Array:
        return jax.device_put(np.ones((width, texts) if columns else (texts, width), np.float32), place)

    hs = [ones(length * batch, hidden) for _ in range(layers)]
    dzs = [ones(length * batch, 4 * hidden) for _ in range(layers)]
    arguments = ones(batch, hidden), ones(batch, 4 * hidden), hs, dzs
    # With these, what the loops multiply stays finite, and normal.
    kernels = [np.full((hidden, 4 * hidden), 1 / hidden, np.float32) for _ in range(layers)]
    kernels = sharding.replicate(kernels, mesh)

    def work(steps: int) -> None:
        for _ in range(steps):
            done = step(*arguments, kernels)
        jax.block_until_ready(done)

    timed(rounds, work)


@contender
def floor_book(rounds: Rounds) -> None:
    multiply(rounds, H, 1, T, B)


@contender
def floor_2x512(rounds: Rounds) -> None:
    multiply(rounds, **LARGE)


@contender
def jaxlm_2x512(rounds: Rounds) -> None:
    import jaxlm

    large = dict(LARGE)
    batch, length = large.pop("batch"), large.pop("length")
    model = jaxlm.ModelConfig(**large)
    stream = {"recipe": "stream", "stride": None, "batch": batch, "length": length}
    # Long enough that no epoch ends, and is saved, while the clock runs.
    train(rounds, dataclasses.replace(jaxlm.BOOK, **stream, model=model), random_text() * 20)


def train_stream(rounds: Rounds, size: str, **changes: int) -> None:
    """Without a validation text, and long enough that no epoch ends, and is saved, while the clock runs."""
    config = dataclasses.replace(STREAMS[size], validation=0.0)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    train(rounds, config, made_up_text(CHARACTERS * 8))


def floor_stream(rounds: Rounds, size: str, multiply: Callable[..., None]) -> None:
    config = STREAMS[size]
    multiply(rounds, config.model.hidden, config.model.layers, config.length, config.batch)


def enter_streams() -> None:
    """Enters the contenders of the stream recipe, `jaxlm_small` and so on."""
    for size in STREAMS:
        CONTENDERS[f"jaxlm_{size}"] = functools.partial(train_stream, size=size, ngram=0)
        CONTENDERS[f"jaxlm_{size}_counts"] = functools.partial(train_stream, size=size)
        CONTENDERS[f"floor_{size}"] = functools.partial(floor_stream, size=size, multiply=multiply)
        CONTENDERS[f"torch_floor_{size}"] = functools.partial(floor_stream, size=size, multiply=multiply_torch)
        CONTENDERS[f"torch_{size}"] = functools.partial(train_torch_stream, size=size)


def book_generator(impl: str = "auto"):
    """An untrained model: its text does not matter for speed."""
    import jax

    from jaxlm.generator import TextGenerator
    from jaxlm.nn import lstm
    from jaxlm.nn.model import LanguageModel
    from jaxlm.text.vocab import Vocab

    text = random_text()
    vocab = Vocab.build("char", text)
    params = jax.jit(LanguageModel(V, ModelConfig(H)).init_params)(jax.random.key(0))
    model = LanguageModel(V, ModelConfig(H), impl=lstm.choose(impl))
    return TextGenerator(model, params, vocab, False, text[:T], T, "window")


@contender
def jaxlm_state(rounds: Rounds) -> None:
    generator = book_generator()
    timed(rounds, lambda characters: len(generator.generate(length=characters, mode="state")))


@contender
def jaxlm_state_reference(rounds: Rounds) -> None:
    generator = book_generator("scan")
    timed(rounds, lambda characters: len(generator.generate(length=characters, mode="state")))


def generate_with(rounds: Rounds, **draw: float) -> None:
    generator = book_generator()
    timed(rounds, lambda characters: len(generator.generate(length=characters, mode="state", **draw)))


TOGETHER = {"top_k": 20, "top_p": 0.9, "min_p": 0.05}


@contender
def jaxlm_top_k(rounds: Rounds) -> None:
    generate_with(rounds, top_k=20)


@contender
def jaxlm_top_p(rounds: Rounds) -> None:
    generate_with(rounds, top_p=0.9)


@contender
def jaxlm_min_p(rounds: Rounds) -> None:
    generate_with(rounds, min_p=0.05)


@contender
def jaxlm_filters(rounds: Rounds) -> None:
    generate_with(rounds, **TOGETHER)


@contender
def jaxlm_no_repeat(rounds: Rounds) -> None:
    generate_with(rounds, no_repeat_ngram_size=12)


@contender
def jaxlm_no_repeat_3(rounds: Rounds) -> None:
    generate_with(rounds, no_repeat_ngram_size=3)


@contender
def jaxlm_everything(rounds: Rounds) -> None:
    generate_with(rounds, **TOGETHER, no_repeat_ngram_size=12)


@contender
def jaxlm_window(rounds: Rounds) -> None:
    generator = book_generator()
    timed(rounds, lambda characters: len(generator.generate(length=characters, mode="window")))


@contender
def jaxlm_streams(rounds: Rounds) -> None:
    generator = book_generator()
    timed(rounds, lambda characters: len(generator.generate_batch(64, length=characters // 64, mode="state")))


# PyTorch


def multiply_torch(rounds: Rounds, hidden: int, layers: int, length: int, batch: int) -> None:
    """The products of `multiply`, by the library that PyTorch has for them."""
    import torch

    torch.set_grad_enabled(False)
    h, dz = torch.ones(batch, hidden), torch.ones(batch, 4 * hidden)
    hs = [torch.ones(length * batch, hidden) for _ in range(layers)]
    dzs = [torch.ones(length * batch, 4 * hidden) for _ in range(layers)]
    kernels = [torch.full((hidden, 4 * hidden), 1e-3 * (i + 1)) for i in range(layers)]
    gates, dh = torch.empty(batch, 4 * hidden), torch.empty(batch, hidden)

    def step() -> None:
        for i, kernel in enumerate(kernels):
            for _ in range(length):
                torch.mm(h, kernel, out=gates)
            for _ in range(length):
                torch.mm(dz, kernel.T, out=dh)
            torch.mm(hs[i].T, dzs[i])
            if i:
                torch.mm(hs[i - 1], kernel)
                torch.mm(dzs[i], kernel.T)
                torch.mm(hs[i - 1].T, dzs[i])

    def work(steps: int) -> None:
        for _ in range(steps):
            step()

    timed(rounds, work)


@contender
def torch_floor_book(rounds: Rounds) -> None:
    multiply_torch(rounds, H, 1, T, B)


@contender
def torch_floor_2x512(rounds: Rounds) -> None:
    multiply_torch(rounds, **LARGE)


def train_torch_stream(rounds: Rounds, size: str) -> None:
    """The stream recipe without counts and without DropConnect, which nn.LSTM does not have."""
    import torch

    torch.manual_seed(0)
    config = STREAMS[size]
    sizes, text = config.model, made_up_text(CHARACTERS)
    letters = {letter: i for i, letter in enumerate(sorted(set(text)))}
    ids = torch.tensor([letters[letter] for letter in text])

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(len(letters), sizes.embedding)
            self.lstm = torch.nn.LSTM(
                sizes.embedding, sizes.hidden, sizes.layers, batch_first=True, dropout=sizes.dropout
            )
            self.drop = torch.nn.Dropout(sizes.output_dropout)
            self.dense = torch.nn.Linear(sizes.hidden, len(letters))

        def forward(self, tokens, state):
            states, state = self.lstm(self.embed(tokens), state)
            return self.dense(self.drop(states)), state

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, (0.9, 0.99), 1e-8, config.weight_decay)
    streams = ids[: len(ids) // config.batch * config.batch].reshape(config.batch, -1)
    state, place = None, 0

    def work(steps: int) -> None:
        nonlocal state, place
        for _ in range(steps):
            if place + config.length >= streams.shape[1]:
                state, place = None, 0
            tokens = streams[:, place : place + config.length + 1]
            place += config.length
            logits, state = model(tokens[:, :-1], state)
            state = tuple(leaf.detach() for leaf in state)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            loss.item()

    timed(rounds, work)


def torch_model(hidden: int, layers: int):
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(V, hidden, layers, batch_first=True)
            self.dense = torch.nn.Linear(hidden, V)

    return Model()


def train_torch(rounds: Rounds, hidden: int, layers: int, length: int, batch: int, every: bool) -> None:
    import torch

    torch.manual_seed(0)
    model = torch_model(hidden, layers)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01, alpha=0.9, eps=1e-7)
    ids = torch.from_numpy(random_ids())
    starts = torch.randint(0, CHARACTERS - length - 1, (100 * batch,))
    windows = ids[starts[:, None] + torch.arange(length + 1)]
    inputs = torch.nn.functional.one_hot(windows[:, :-1], V).float()
    targets = windows[:, 1:] if every else windows[:, -1:]
    done = 0

    def work(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            rows = slice(done % 100 * batch, done % 100 * batch + batch)
            done += 1
            states, _ = model.lstm(inputs[rows])
            logits = model.dense(states if every else states[:, -1:])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    timed(rounds, work)


@contender
def torch_book(rounds: Rounds) -> None:
    train_torch(rounds, H, 1, T, B, every=False)


@contender
def torch_2x512(rounds: Rounds) -> None:
    train_torch(rounds, LARGE["hidden"], LARGE["layers"], LARGE["length"], LARGE["batch"], every=True)


def write_torch(rounds: Rounds, streams: int) -> None:
    """The usual loop: one character at a time, with the state carried over."""
    import torch

    model = torch_model(H, 1)

    @torch.no_grad()
    def work(characters: int) -> None:
        tokens, state = torch.zeros(streams, 1, dtype=torch.int64), None
        written = []
        for _ in range(characters // streams):
            states, state = model.lstm(torch.nn.functional.one_hot(tokens, V).float(), state)
            probabilities = torch.softmax(model.dense(states[:, -1]) / 0.5, -1)
            tokens = torch.multinomial(probabilities, 1)
            written.append(tokens)
        torch.cat(written, 1).tolist()

    timed(rounds, work)


@contender
def torch_state(rounds: Rounds) -> None:
    write_torch(rounds, 1)


@contender
def torch_streams(rounds: Rounds) -> None:
    write_torch(rounds, 64)


# Keras


def keras_model(backend: str):
    os.environ["KERAS_BACKEND"] = backend
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((T, V)), keras.layers.LSTM(H), keras.layers.Dense(V, activation="softmax")])
    model.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.RMSprop(learning_rate=0.01))
    return model


def train_keras(rounds: Rounds, backend: str) -> None:
    model = keras_model(backend)
    ids, eye = random_ids(), np.eye(V, dtype=np.float32)
    starts = np.random.default_rng(1).integers(0, CHARACTERS - T - 1, 60 * B)
    inputs, targets = eye[ids[starts[:, None] + np.arange(T)]], eye[ids[starts + T]]
    timed(rounds, lambda steps: model.fit(inputs[: steps * B], targets[: steps * B], batch_size=B, verbose=0))


@contender
def keras_tensorflow_book(rounds: Rounds) -> None:
    train_keras(rounds, "tensorflow")


@contender
def keras_jax_book(rounds: Rounds) -> None:
    train_keras(rounds, "jax")


def write_keras(rounds: Rounds, backend: str) -> None:
    """The book's loop: the window is read again for every character."""
    model = keras_model(backend)
    window = list(random_ids()[:T])
    generator = np.random.default_rng(2)

    def work(characters: int) -> None:
        for _ in range(characters):
            sampled = np.zeros((1, T, V), np.float32)
            for t, token in enumerate(window):
                sampled[0, t, token] = 1.0
            logs = np.log(model.predict(sampled, verbose=0)[0].astype(np.float64)) / 0.5
            weights = np.exp(logs)
            window.append(int(np.argmax(generator.multinomial(1, weights / weights.sum()))))
            window.pop(0)

    timed(rounds, work)


@contender
def keras_tensorflow_write(rounds: Rounds) -> None:
    write_keras(rounds, "tensorflow")


@contender
def keras_jax_write(rounds: Rounds) -> None:
    write_keras(rounds, "jax")


enter_streams()

if __name__ == "__main__":
    # Output of libraries must not be taken for an answer.
    ANSWERS = os.dup(1)
    os.dup2(2, 1)
    if "one-core" in sys.argv[2:] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    CONTENDERS[sys.argv[1]](Rounds())
