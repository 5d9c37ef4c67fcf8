"""The commands, and what they show."""

from jaxlm.cli.commands import evaluate, main, runs, sample, train

__all__ = ["evaluate", "main", "runs", "sample", "train"]
