"""jaxlm and its alternatives, measured in turns on one machine: `python -m benchmarks`."""
