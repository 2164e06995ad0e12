"""Bits per byte of a text: of any causal language model, and of file compressors on the same bytes."""
