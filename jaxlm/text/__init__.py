"""Strings to token ids and back: corpora, vocabularies, batches. Nothing here knows JAX."""
