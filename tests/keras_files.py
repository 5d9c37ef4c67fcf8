"""Writes keras_files/ beside this file: small models that Keras 2 and 3 saved, and what Keras predicts with them.

The tests need no Keras. In an environment with keras, jax and h5py:      python tests/keras_files.py 3
In one with tensorflow and tf-keras, which is Keras 2 under a new name:   python tests/keras_files.py 2

The files of `CuDNNLSTM`, which needs a GPU, are made by hand from the documented layout of its weights; the predictions
are those of the LSTM that Keras 2 itself makes of them.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("keras_files")
CHARACTERS = "nabcdefg hi"
LENGTH = 12
WINDOWS = np.random.default_rng(0).integers(0, len(CHARACTERS), (64, LENGTH))
ONE_HOTS = np.eye(len(CHARACTERS), dtype=np.float32)[WINDOWS]


def randomised(model):
    """The model with random weights, biases among them, large enough for the gates to reach their ends."""
    draw = np.random.default_rng(1)
    model.set_weights([draw.normal(0, 0.8, weight.shape).astype(np.float32) for weight in model.get_weights()])
    return model


def book(keras, **settings):
    """The network of Deep Learning with Python, section 8.1, but small."""
    layers = keras.layers
    return randomised(
        keras.Sequential(
            [
                layers.Input((LENGTH, len(CHARACTERS))),
                layers.LSTM(8, **settings),
                layers.Dense(len(CHARACTERS), activation="softmax"),
            ]
        )
    )


def deep(keras):
    """An embedding, two layers of LSTM with a Dropout between, and a prediction at every position."""
    layers = keras.layers
    return randomised(
        keras.Sequential(
            [
                layers.Input((None,)),
                layers.Embedding(len(CHARACTERS), 5),
                layers.LSTM(6, return_sequences=True),
                layers.Dropout(0.3),
                layers.LSTM(6, return_sequences=True),
                layers.Dense(len(CHARACTERS), activation="softmax"),
            ]
        )
    )


def record(predictions):
    for name, probabilities in predictions.items():
        np.save(FOLDER / f"{name}.npy", np.asarray(probabilities, np.float32))


def keras_3():
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    assert keras.version().startswith("3.")
    small, large = book(keras), deep(keras)
    small.save(FOLDER / "keras-3.keras")
    small.save_weights(FOLDER / "keras-3.weights.h5")
    small.save(FOLDER / "keras-3.h5")
    large.save(FOLDER / "keras-3-deep.keras")
    book(keras, recurrent_activation="hard_sigmoid").save(FOLDER / "keras-3-hard.keras")
    record({"keras-3": small.predict(ONE_HOTS), "keras-3-deep": large.predict(WINDOWS)[:, -1]})


def keras_2():
    import h5py
    import tf_keras as keras
    from tf_keras.src.saving.legacy import hdf5_format

    assert keras.__version__.startswith("2.")
    hard, large = book(keras, recurrent_activation="hard_sigmoid"), deep(keras)
    hard.save(FOLDER / "keras-2-hard.h5")
    hard.save(FOLDER / "keras-2-hard.keras")
    hard.save_weights(FOLDER / "keras-2-hard-weights.h5")
    large.save(FOLDER / "keras-2-deep.h5")
    record({"keras-2-hard": hard.predict(ONE_HOTS), "keras-2-deep": large.predict(WINDOWS)[:, -1]})

    # As Keras 2.2.4 stores a CuDNNLSTM.
    soft, draw = book(keras, recurrent_activation="sigmoid"), np.random.default_rng(2)
    units, width = 8, len(CHARACTERS)
    shapes = {"kernel:0": (width, 4 * units), "recurrent_kernel:0": (units, 4 * units), "bias:0": (8 * units,)}
    cudnn = {name: draw.normal(0, 0.8, shape).astype(np.float32) for name, shape in shapes.items()}
    soft.layers[0].set_weights(
        hdf5_format.preprocess_weights_for_loading(soft.layers[0], list(cudnn.values()), "2", "tensorflow")
    )
    dense = dict(zip(("kernel:0", "bias:0"), soft.layers[1].get_weights(), strict=True))
    described = {
        "class_name": "Sequential",
        "config": {
            "name": "sequential_1",
            "layers": [
                {
                    "class_name": "CuDNNLSTM",
                    "config": {"name": "cu_dnnlstm_1", "batch_input_shape": [None, LENGTH, width], "units": units},
                },
                {"class_name": "Dense", "config": {"name": "dense_1", "units": width, "activation": "softmax"}},
            ],
        },
    }
    with h5py.File(FOLDER / "keras-2-cudnn.h5", "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = b"2.2.4", b"tensorflow"
        file.attrs["model_config"] = json.dumps(described).encode()
        top = file.create_group("model_weights")
        top.attrs["layer_names"] = [b"cu_dnnlstm_1", b"dense_1"]
        for layer, weights in (("cu_dnnlstm_1", cudnn), ("dense_1", dense)):
            group = top.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}".encode() for name in weights]
            for name, weight in weights.items():
                group[f"{layer}/{name}"] = weight
    record({"keras-2-cudnn": soft.predict(ONE_HOTS)})


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    {"2": keras_2, "3": keras_3}[sys.argv[1]]()
