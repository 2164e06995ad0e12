"""Train agent language models from one recipe."""

__version__ = "0.1.0"
