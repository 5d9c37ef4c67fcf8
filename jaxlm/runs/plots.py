"""Pictures: how runs learned, and what the temperature does to the text that a run generates."""

import io
import math
import os
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from jaxlm.config import Axis
from jaxlm.errors import InputError, RunError, check_choice, file_path, reject
from jaxlm.runs.copies import BORDER, learned_text, pieces_of
from jaxlm.runs.data import own_corpus, split
from jaxlm.runs.files import write_bytes
from jaxlm.runs.mixing import OneRun, open_trained
from jaxlm.runs.run import Run
from jaxlm.runs.samples import mean_surprise
from jaxlm.runs.target import target
from jaxlm.text.copying import longest_copy, share_of_words, share_repeated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEMPERATURES = tuple(tenth / 10 for tenth in range(1, 16))

TEXTS, LENGTH = 8, 1000
"""How many texts are measured at each temperature, and pieces of real text; and their characters."""

PROPERTIES = {
    "words": "Words that the corpus has (share)",
    "repeated": "Four-word phrases said before (share)",
    "surprise": "Mean surprise (nats per token)",
    "copied": "Longest copied span (characters)",
}
"""What is measured of a text, with its title."""

PICTURES = ".png", ".svg"

CREATOR = "jaxlm, with matplotlib"
"""What a picture in SVG says near its beginning."""


def plot(*runs: OneRun, by: Axis = "epoch", path: str | os.PathLike[str] | None = None) -> "Figure":
    """Draws how runs learned, or how one generates at each temperature: `plot("my-book", "my-stream", by="seconds")`.

    Args:
      runs: each as in `load`; the newest if left out.
      by: `epoch` or `seconds`: training and validation loss, and the best epoch; seconds are those of training, without
        saves and samples, and without what a kill undid. `temperature`: what `by_temperature` measures.
      path: where to write the picture, as its suffix says: .png or .svg.

    Returns:
      The figure, which a notebook shows.

    Raises:
      InputError: there is no such run, or nothing to draw of it; or `by` or `path` is none of these; or matplotlib is
        not installed. By temperature, also as in `copied`.
      RunError: the picture cannot be written.
    """
    check_choice("by", by, get_args(Axis))
    place = None
    if path is not None:
        place = target("output", file_path("output", path))
        if Path(path).suffix.lower() not in PICTURES:
            reject("output", path, f"a name that ends in {' or '.join(PICTURES)}")
    figure = _figure()
    found = _open_each(runs)
    if by == "temperature":
        if len(found) > 1:
            reject("by", by, "epoch or seconds for several runs", "leave out all but one")
        _draw_temperatures(figure, found[0])
    else:
        _draw_learning(figure, found, by)
    if path is not None and place:
        content = _drawn(figure, Path(path).suffix[1:].lower())
        try:
            write_bytes(place, content)
        except OSError as error:
            raise RunError(f"output {path}: cannot be written ({error.strerror}); nothing was") from error
    return figure


def _open_each(runs: Sequence[OneRun]) -> list[Run]:
    return [open_trained(run)[0] for run in runs or (None,)]


def by_temperature(run: Run, temperatures: Sequence[float] = TEMPERATURES) -> tuple[list[dict], dict[str, float]]:
    """Measures texts that a run generates, from its seed text on, and real ones: the same way.

    Returns:
      For each temperature, a dict of it and of what PROPERTIES names: means over texts, of `copied` the median. And
      those of real text: pieces of the validation text, or without one of the training text, compared with the rest.

    Raises:
      InputError: the corpus is missing or has changed.
    """
    config = run.record.config
    if config.validation:
        learned, held_out = (part.text for part in split(config, own_corpus(run, "restore it")))
        real = [(piece, learned) for piece, _ in pieces_of(held_out, LENGTH, TEXTS)]
    else:
        learned = learned_text(run)
        real = pieces_of(learned, LENGTH, TEXTS)
    generator, _ = run.generator()
    prompt = generator.as_read(run.record.seed_text, "error")

    def measured(texts: list[tuple[str, str]]) -> dict[str, float]:
        found = {
            "words": [share_of_words(text, source) for text, source in texts],
            "repeated": [share_repeated(text) for text, _ in texts],
            "surprise": [mean_surprise(generator, prompt, text) or math.nan for text, _ in texts],
        }
        means = {name: statistics.fmean(values) for name, values in found.items()}
        return {**means, "copied": statistics.median(longest_copy(text, source).length for text, source in texts)}

    rows = []
    for temperature in temperatures:
        texts = generator.generate_batch(TEXTS, None, LENGTH, temperature=temperature, seed=config.seed)
        rows.append({"temperature": temperature, **measured([(text[len(prompt) :], learned) for text in texts])})
    known = [(text, source) for text, source in real if not generator.vocab.unknown(text) and BORDER not in text]
    return rows, measured(known)


def _draw_temperatures(figure: "Figure", run: Run) -> None:
    rows, real = by_temperature(run)
    figure.set_size_inches(8, 5.6)
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, PROPERTIES.items(), strict=True):
        axes.plot([row["temperature"] for row in rows], [row[name] for row in rows], marker="o", markersize=3)
        axes.axhline(real[name], color="0.35", linestyle="--", linewidth=1)
        axes.annotate(
            "real text", (1, real[name]), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.35"
        )
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.margins(y=0.12)
        _tidy(axes)
    for axes in figure.axes[2:]:
        axes.set_xlabel("temperature")


def _draw_learning(figure: "Figure", runs: Sequence[Run], by: str) -> None:
    figure.set_size_inches(7, 4.2)
    axes = figure.subplots()
    for number, run in enumerate(runs):
        epochs = [one for one in run.metrics() if all(map(_is_number, (one.get("loss"), one.get(by))))]
        if not epochs:
            raise InputError(
                f"run {run.shown}: has no epoch to draw, since it has trained none to its end, or was imported; resume "
                "it, or name another run"
            )
        passed, places = 0.0, []
        for one in epochs:
            passed = passed + one[by] if by == "seconds" else one[by]
            places.append(passed)
        colour = f"C{number % 10}"
        name = f"{run.path.name}: " if len(runs) > 1 else ""
        marker = "." if len(epochs) == 1 else ""
        losses = [one["loss"] for one in epochs]
        axes.plot(places, losses, color=colour, linestyle=":", marker=marker, label=_plain(f"{name}training"))
        judged = losses
        if all(_is_number(one.get("validation_loss")) for one in epochs):
            judged = [one["validation_loss"] for one in epochs]
            axes.plot(places, judged, color=colour, marker=marker, label=_plain(f"{name}validation"))
        best = min(range(len(epochs)), key=judged.__getitem__)
        axes.plot(places[best], judged[best], "o", color=colour)
        axes.annotate(
            f"{judged[best]:.4f}", (places[best], judged[best]), (0, -5), textcoords="offset points", ha="center",
            va="top", color=colour, fontsize=9,
        )  # fmt: skip
    axes.set_xlabel("epoch" if by == "epoch" else "seconds of training")
    axes.set_ylabel("loss (nats per token)")
    axes.margins(y=0.12)
    if by == "epoch":
        axes.locator_params("x", integer=True)
    axes.legend(frameon=False)
    _tidy(axes)


def _figure() -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "matplotlib is not installed, which plots need; install it: python -m pip install 'jaxlm[plots]'"
        ) from None

    class Shown(Figure):
        """A figure that a notebook shows by itself."""

        def _repr_png_(self) -> bytes:
            return _drawn(self, "png")

    return Shown(layout="constrained")


def _drawn(figure: "Figure", kind: str) -> bytes:
    """A picture file; the same runs give the same one."""
    import matplotlib

    content = io.BytesIO()
    about = {"Date": None, "Creator": CREATOR} if kind == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "jaxlm", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # Of a run's name; most fonts lack most scripts.
        figure.savefig(content, format=kind, dpi=144, metadata=about)
    return content.getvalue()


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _plain(name: str) -> str:
    """A name that matplotlib takes for no mathematics."""
    return name.replace("$", r"\$")


def _is_number(value: object) -> bool:
    """Whether a figure can be drawn: a run may come from a stranger."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
