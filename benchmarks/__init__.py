"""jaxlm beside what people use instead, measured on one machine, in turns: `python -m benchmarks`."""
