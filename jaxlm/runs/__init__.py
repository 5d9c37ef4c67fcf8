"""A training run and its directory: the only wing that knows what lies in it."""
