"""Synthetic tasks: seeded, and each with the accuracy of chance and of a strategy that does not solve it."""
