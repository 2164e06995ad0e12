"""What docs/performance.md is made by."""
