"""The recipe: found, extended, overlaid, overridden, and validated into typed sections."""
