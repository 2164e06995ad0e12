"""A package as users of verifiers write them: one answer, several turns, and tools."""

from __future__ import annotations

import verifiers.v1 as vf


class NumberData(vf.TaskData):
    number: int


class GamesConfig(vf.TasksetConfig):
    game: str = "double"


class NumberTask(vf.Task[NumberData]):
    @vf.reward(weight=0.75)
    async def right(self, trace: vf.Trace) -> float:
        return float(str(self.data.number * 2) in trace.last_reply)

    @vf.reward(weight=0.25)
    async def brief(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 5)


class NumberGames(vf.Taskset[NumberTask, GamesConfig]):
    def load(self):
        for number in range(1, 31):
            prompt = f"What is twice {number}?" if self.config.game == "double" else None
            yield NumberTask(NumberData(number=number, prompt=prompt, system_prompt="Be brief."), self.config.task)


class NumberEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class NumberEnv(vf.Env[NumberEnvConfig]):
    """Answers each guess, until it is right."""

    async def run(self, task, agents):
        if self.config.taskset.game == "double":
            await agents.player.run(task)
            return
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn("Guess a number.")
            while not segment.terminated and segment.last_reply != str(task.data.number * 2):
                segment = await interaction.turn("It is larger.")


__all__ = ["NumberEnv", "NumberGames"]
