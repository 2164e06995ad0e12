"""The rows of a recipe's benchmarks for `download`: reading them once leaves them in the cache of `datasets`."""

from __future__ import annotations

from agentforge.data.sources.download import SourceReport
from agentforge.recipe.schema import Recipe


def download_benchmarks(recipe: Recipe) -> list[SourceReport]:
    """Read the rows of `evaluate.benchmarks`, from the Hub if they are nowhere else, for runs without network.

    Raises:
        UserError: there is no such task, its data set cannot be had, or lm-eval is not installed.
    """
    if recipe.evaluate.benchmarks is None:
        return []
    from agentforge.evaluation.benchmarks.evaluate_benchmarks import load_tasks

    tasks = load_tasks(recipe.evaluate.benchmarks, recipe.data.hub_mirror)
    names = dict.fromkeys(str(task.DATASET_PATH) for task in tasks.values())
    return [SourceReport(name, "evaluation", "here") for name in names]
