"""Marks of transformers' own tests, which ours would refuse as misspelt."""

import pytest

MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "generate", "order", "slow",
    "torch_compile_test", "torch_export_test",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' own tests")
