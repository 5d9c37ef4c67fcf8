"""Generates text with a trained model: `python sample.py --help`."""

import sys

from jaxlm.cli import programs

if __name__ == "__main__":
    sys.exit(programs.sample())
