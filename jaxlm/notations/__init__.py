"""Notations: what else than prose can be text. A file of tunes or drawings becomes text, and text such a file."""
