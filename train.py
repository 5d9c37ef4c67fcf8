"""Trains a model: `python train.py --help`."""

import sys

from jaxlm.cli import programs

if __name__ == "__main__":
    sys.exit(programs.train())
