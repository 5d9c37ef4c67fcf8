"""The commands, and what they show."""

from jaxlm.cli.commands import evaluate, main, sample, train

__all__ = ["evaluate", "main", "sample", "train"]
