"""Time and loss of the book's recipe as its readers run it, with Keras on TensorFlow.

`python -m benchmarks.keras_book nietzsche.txt` trains on the first 90% of the text for ten epochs, then prints the
loss on the windows of the rest, which `python -m jaxlm evaluate --protocol window-60` measures for jaxlm.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

LENGTH, STRIDE = 60, 3

BEGAN = time.perf_counter()


def windows(text: str, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """One-hot windows, and the character after each, as the book vectorises them."""
    starts = range(0, len(text) - LENGTH, STRIDE)
    inputs = np.zeros((len(starts), LENGTH, len(index)), bool)
    targets = np.zeros((len(starts), len(index)), bool)
    for i, start in enumerate(starts):
        for t, character in enumerate(text[start : start + LENGTH]):
            inputs[i, t, index[character]] = True
        targets[i, index[text[start + LENGTH]]] = True
    return inputs, targets


def main() -> None:
    """Trains and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keras_book", description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="a text file")
    parser.add_argument("--epochs", type=int, default=10, help="passes over its first 90%% (default: %(default)s)")
    arguments = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    text = arguments.corpus.read_text(encoding="utf-8").lower()
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    border = int(0.9 * len(text))
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((LENGTH, len(index))),
            keras.layers.LSTM(128),
            keras.layers.Dense(len(index), activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.RMSprop(learning_rate=0.01))
    model.fit(*windows(text[:border], index), batch_size=128, epochs=arguments.epochs, verbose=2)
    seconds = time.perf_counter() - BEGAN
    loss = model.evaluate(*windows(text[border:], index), batch_size=128, verbose=0)
    print(f"{arguments.epochs} epochs in {seconds:.1f} s; held-out loss {loss:.4f} nats")


if __name__ == "__main__":
    main()
