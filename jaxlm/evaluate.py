"""Measures a trained model on a text: `python -m jaxlm.evaluate --help`."""

import sys

from jaxlm import cli

if __name__ == "__main__":
    sys.exit(cli.evaluate())
