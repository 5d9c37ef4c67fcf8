"""The commands; each reports mistakes in one line."""

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jaxlm
from jaxlm import invocation
from jaxlm.cli import parser
from jaxlm.cli.generate import describe, generate
from jaxlm.cli.guard import guarded, note
from jaxlm.cli.options import (
    BEGINNING_LENGTH,
    COMMANDS,
    EVALUATE,
    EXPORT,
    IMPORT,
    PAGE,
    PLOT,
    RUNS,
    SAMPLE,
    TRAIN,
    WRITE,
    EvaluateFlags,
    ExportFlags,
    ImportFlags,
    PageFlags,
    PlotFlags,
    RunsFlags,
    SampleFlags,
    TrainFlags,
    WriteFlags,
)
from jaxlm.cli.output import show
from jaxlm.cli.page import write_page
from jaxlm.cli.tints import says_tints, tinted
from jaxlm.cli.write import write_in_turns
from jaxlm.config import TrainConfig, changed, checkpoints_folder, settings_in, started
from jaxlm.errors import InputError, RunError, did_you_mean, first_line, reject, reject_idle
from jaxlm.notations.notation import plural
from jaxlm.runs.target import target


def train(argv: Sequence[str]) -> int:
    """`jaxlm train`, `python train.py`: returns the exit status."""
    return _run(TRAIN, _train, argv)


def sample(argv: Sequence[str]) -> int:
    """`jaxlm sample`, `python sample.py`: returns the exit status."""
    return _run(SAMPLE, lambda given: generate(changed(SampleFlags(), given), "length" in given), argv)


def write(argv: Sequence[str]) -> int:
    """`jaxlm write`: returns the exit status."""
    return _run(WRITE, lambda given: write_in_turns(changed(WriteFlags(), given)), argv)


def evaluate(argv: Sequence[str]) -> int:
    """`jaxlm evaluate`: returns the exit status."""
    return _run(EVALUATE, lambda given: _evaluate(changed(EvaluateFlags(), given)), argv)


def page(argv: Sequence[str]) -> int:
    """`jaxlm page`: returns the exit status."""
    return _run(PAGE, lambda given: write_page(changed(PageFlags(), given)), argv)


def runs(argv: Sequence[str]) -> int:
    """`jaxlm runs`: returns the exit status."""
    return _run(RUNS, lambda given: _runs(changed(RunsFlags(), given)), argv)


def plot(argv: Sequence[str]) -> int:
    """`jaxlm plot`: returns the exit status."""
    return _run(PLOT, lambda given: _plot(changed(PlotFlags(), given)), argv)


def export(argv: Sequence[str]) -> int:
    """`jaxlm export`: returns the exit status."""
    return _run(EXPORT, lambda given: _export(changed(ExportFlags(), given)), argv)


def import_(argv: Sequence[str]) -> int:
    """`jaxlm import`: returns the exit status."""
    return _run(IMPORT, lambda given: _import(changed(ImportFlags(), given)), argv)


def main(argv: Sequence[str]) -> int:
    """`jaxlm COMMAND`, `python -m jaxlm COMMAND`: returns the exit status."""
    commands = {
        "train": train,
        "sample": sample,
        "write": write,
        "evaluate": evaluate,
        "page": page,
        "runs": runs,
        "plot": plot,
        "export": export,
        "import": import_,
    }
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    return guarded(_overview, argv)


def _overview(argv: Sequence[str]) -> None:
    """Prints what jaxlm can do, or its version."""
    program = invocation.program or invocation.MODULE
    word = argv[0] if argv else "--help"
    if word not in ("--version", *parser.HELP):
        if word.startswith("-"):
            raise parser.see_help(f"{word}: expected a command first, one of {', '.join(COMMANDS)}", program)
        raise parser.see_help(f"{word}: no such command{did_you_mean(word, COMMANDS)}", program)
    if word == "--version":
        print(f"jaxlm {jaxlm.__version__}", flush=True)
        return
    width = parser.terminal_width()
    lines = textwrap.wrap("jaxlm trains a character-level LSTM on any text, and generates text with it.", width)
    for title, entries in {
        "Start with": {
            f"{program} sample": "text from the bundled model",
            f"{program} train my.txt --recipe stream": "train on your own text",
            f"{program} train --help": "every option of a command",
        },
        "Commands": {command.name: command.summary for command in COMMANDS.values()},
    }.items():
        lines += ["", f"{title}:"]
        left = 4 + min(max(map(len, entries)), width // 2)
        for term, text in entries.items():
            lines += parser.entry(term, text, width, left)
    print("\n".join(lines), flush=True)


def _run(command: parser.Command, act: Callable[[dict[str, Any]], None], argv: Sequence[str]) -> int:
    def answer(argv: Sequence[str]) -> None:
        given = parser.read(command, argv)
        if given.pop("help", False):
            print(parser.help_text(command, command.defaults(given)), flush=True)
            return
        try:
            _start_jax()
            act(given)
        except ModuleNotFoundError as error:
            raise RunError(
                f"{error.name} is not installed, which jaxlm needs; install it: python -m pip install {error.name}"
            ) from error

    return guarded(answer, argv)


def _start_jax() -> None:
    """Imports JAX, and has it keep what it compiles.

    Raises:
      RunError: it refuses a setting of the environment.
    """
    try:
        from jaxlm.nn import compilation
    except ValueError as error:
        settings = ", ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith("JAX_"))
        raise RunError(f"JAX cannot be imported with {settings} in the environment ({first_line(error)})") from error
    compilation.keep_compiled()


def _train(given: Mapping[str, Any]) -> None:
    if given.get("resume"):
        _resume(given)
        return
    from jaxlm.cli.tensorboard import and_tensorboard
    from jaxlm.cli.terminal import Terminal
    from jaxlm.runs import trainer
    from jaxlm.runs.run import Run, find

    parent = None
    if "start_from" in given:
        parent = Run.open(find(given["start_from"], given.get("checkpoints")))
        learned = _learned(given)
        config = started(parent.record.config, learned.pop("recipe", None), given.get("size"), learned)
        given = {**given, "config": config}
    flags = changed(TRAIN.defaults(given), given)
    assert isinstance(flags, TrainFlags)
    shown = and_tensorboard(Terminal(flags.watch), flags.tensorboard)
    trainer.train(flags.config, run=flags.run, checkpoints=flags.checkpoints, reporter=shown, start_from=parent)


def _resume(given: Mapping[str, Any]) -> None:
    for name in ("size", "start_from"):
        if name in given:
            reject_idle(name, given[name], "with --resume, since a run keeps its own", "leave it out")
    settings = _learned(given)
    flags = changed(TrainFlags(), {name: value for name, value in given.items() if name not in settings})
    from jaxlm.cli.tensorboard import and_tensorboard
    from jaxlm.cli.terminal import Terminal
    from jaxlm.runs import trainer
    from jaxlm.runs.run import Run, find

    run = Run.open(find(flags.run, flags.checkpoints))
    trainer.resume(run, reporter=and_tensorboard(Terminal(flags.watch), flags.tensorboard), **settings)


def _learned(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that decide what a run learns."""
    return {name: given[name] for name, _, _ in settings_in(TrainConfig()) if name in given}


def _evaluate(flags: EvaluateFlags) -> None:
    if flags.length is not None and not flags.show_probabilities:
        shows = f"without {invocation.setting('show_probabilities')}"
        reject_idle("length", flags.length, shows, "leave it out, or show the text")
    if flags.show_probabilities and flags.config.protocol == "window-60":
        reject("show_probabilities", True, "another protocol than window-60, which skips characters", "leave one out")
    from jaxlm.cli.terminal import fact_line
    from jaxlm.runs.evaluation import evaluate
    from jaxlm.runs.mixing import open_trained

    runs = open_trained(flags.where.run, flags.where.checkpoints)
    found = evaluate(runs, flags.config, impl=flags.impl, mix_ngram=flags.mix_ngram)
    skipped = f", {found.skipped:,} of them unknown and skipped" if found.skipped else ""
    columns = {"static": found.static, "dynamic": found.dynamic, "n-gram": found.baseline}
    shown = {name: figures for name, figures in columns.items() if figures is not None}
    figures = list(shown.values())
    facts = {
        "Run": describe(found.runs, found.progress, flags.mix_ngram),
        "Text": f"{found.text}, {found.characters:,} characters{skipped}",
        "Protocol": found.protocol,
    }
    table = {
        "Evaluation": list(shown),
        "Nats per token": [f"{one.loss:.4f}" for one in figures],
        "Nats per character": [f"{one.nats_per_character:.4f}" for one in figures],
        "Bits per character": [f"{one.bits_per_character:.4f}" for one in figures],
        "Perplexity": [f"{one.perplexity:.4f}" for one in figures],
        "Tokens scored": [f"{one.tokens:,}" for one in figures],
        "Tokens per second": [*(f"{one.tokens_per_second:,.0f}" for one in figures), "(once compiled)"],
    }
    if any(one.nats_per_unit for one in figures):
        per_unit = [f"{one.nats_per_unit:.4f}" for one in figures]
        table |= {f"Nats per {found.unit}": [*per_unit, f"({plural(found.units, found.unit)})"]}
    if len(shown) == 1:
        del table["Evaluation"]
    if found.static.loss == found.static.nats_per_character:  # As for character tokens.
        del table["Nats per token"]
    facts |= {name: "".join(f"{value:<12}" for value in values).rstrip() for name, values in table.items()}
    for name, fact in facts.items():
        print(show(fact_line(name, fact), sys.stdout), flush=True)
    if flags.show_probabilities and found.scores is not None:
        _show_text(found.scores.surprises(), flags.length or BEGINNING_LENGTH)


def _show_text(text: Sequence[tuple[str, float]], most: int) -> None:
    """Prints the beginning of a text, each character tinted by its surprise."""
    pieces, length = [], 0
    for characters, surprise in text:
        pieces.append((characters[: max(0, most - length)], surprise))
        length += len(characters)
    which = f"the first {most:,} of {length:,} characters" if most < length else f"all {length:,} characters"
    parts = tinted(pieces, sys.stdout) if says_tints(sys.stdout) else (show(piece, sys.stdout) for piece, _ in pieces)
    print(f"--- {which}, as the model read them\n{''.join(parts)}", flush=True)


def _runs(flags: RunsFlags) -> None:
    from jaxlm.runs.listing import list_runs

    found = list_runs(flags.checkpoints or checkpoints_folder())
    if flags.json:
        print(json.dumps([dataclasses.asdict(run) for run in found], indent=1), flush=True)
        return
    from rich.cells import cell_len  # A Korean letter takes two columns.

    table = [["NAME", "CORPUS", "RECIPE", "PARAMETERS", "EPOCHS", "BEST LOSS", "SIZE", "CREATED"]]
    for run in found:
        table.append(
            [
                run.name,
                run.corpus,
                run.recipe,
                f"{run.parameters:,}",
                f"{run.epoch}/{run.epochs}",
                "" if run.loss is None else f"{run.loss:.4f}",
                f"{run.bytes / 1e6:.1f} MB",
                run.created[:10],
            ]
        )
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print(show("  ".join(cells).rstrip(), sys.stdout), flush=True)


def _plot(flags: PlotFlags) -> None:
    from jaxlm.runs.plots import CREATOR
    from jaxlm.runs.plots import plot as draw
    from jaxlm.runs.run import Run, find

    output = flags.output or "plot.svg"
    if flags.output is None:
        target("output", output, CREATOR)

    trained = flags.by == "temperature"
    found = [Run.open(find(name, flags.checkpoints, trained=trained)) for name in flags.run or (None,)]
    draw(*found, by=flags.by, path=output)
    note(f"Written: {output}")


def _export(flags: ExportFlags) -> None:
    from jaxlm.runs.exchange import export
    from jaxlm.runs.run import Run, find

    if flags.destination is None:
        raise InputError("destination: expected a path to write to after the run, such as model.safetensors")
    path = export(Run.open(find(flags.run, flags.checkpoints, trained=True)), flags.destination)
    note(f"Written: {invocation.shown(path)}, with a model card; state the model's licence in it before you share it")


def _import(flags: ImportFlags) -> None:
    from jaxlm.runs.exchange import import_keras

    if flags.file is None:
        raise InputError("file: expected a model that Keras saved, such as model.keras")
    run = import_keras(
        flags.file,
        chars=flags.chars,
        corpus=flags.corpus,
        run=flags.run,
        checkpoints=flags.checkpoints,
        gates=flags.gates,
        length=flags.length,
    )
    note(f"Imported as run {run.shown}; to generate text: {invocation.sample(run.path)}")
