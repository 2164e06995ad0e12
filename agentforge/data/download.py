"""`download`."""

from agentforge.data.locate import MissingData, locate

__all__ = ["MissingData", "locate"]
