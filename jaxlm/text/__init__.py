"""Strings to token ids and back: corpora, vocabularies, batches, n-grams, copies. Nothing here knows JAX."""
