"""Environments and the sandbox that tools run in."""
