"""The command line, and what it shows."""

from jaxlm.cli.commands import evaluate, main, runs, sample, train

__all__ = ["evaluate", "main", "runs", "sample", "train"]
