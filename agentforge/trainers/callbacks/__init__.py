"""What watches a training run: metrics, progress, signals and the budget."""
