"""A taskset of verifiers whose tasks have a tool; verifiers starts this module as a process that serves it."""

from __future__ import annotations

import verifiers.v1 as vf


class Calculator(vf.Toolset[vf.ToolsetConfig, vf.State]):
    @vf.tool
    async def add(self, a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)


class SumTask(vf.Task[vf.TaskData]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [Calculator(vf.ToolsetConfig())]

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float("5" in trace.last_reply)


class NumberTools(vf.Taskset[SumTask, vf.TasksetConfig]):
    def load(self):
        yield SumTask(vf.TaskData(prompt="What is 2 + 3?"), self.config.task)


__all__ = ["NumberTools"]

if __name__ == "__main__":
    Calculator.run()
