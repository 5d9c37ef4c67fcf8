"""Generates text with a trained model: `python sample.py --help`."""

import sys

from jaxlm import cli

if __name__ == "__main__":
    sys.exit(cli.sample())
