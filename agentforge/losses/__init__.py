"""Objectives as pure functions of tensors."""
