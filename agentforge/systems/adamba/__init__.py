"""Adamba: a transformer with a Mamba-2 mixer beside the attention of each layer, nested widths and early exits."""
