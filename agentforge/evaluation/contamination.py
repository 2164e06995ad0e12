"""Refuses to score a model on prompts that its recipe trains on."""

from __future__ import annotations

from agentforge.errors import CheckRefused
