"""Trains a model: `python train.py --help`."""

import sys

try:
    from jaxlm import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; install jaxlm and what it needs: python -m pip install -e .")

if __name__ == "__main__":
    sys.exit(cli.train())
