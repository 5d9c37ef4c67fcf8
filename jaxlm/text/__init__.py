"""Strings to token ids and back: corpora, vocabularies, batches, n-grams. Nothing here knows JAX."""
