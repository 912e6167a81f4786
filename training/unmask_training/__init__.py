"""Data, codecs, the three stages and evaluation: everything that makes the built-in model."""
