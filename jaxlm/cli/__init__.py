"""The command line, and what it shows."""

from jaxlm.cli.commands import evaluate, export, import_, main, runs, sample, train, write

__all__ = ["evaluate", "export", "import_", "main", "runs", "sample", "train", "write"]
