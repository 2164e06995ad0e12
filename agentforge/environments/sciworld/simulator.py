"""ScienceWorld's simulator: Java machines that environments share, four at most.

The simulator is driven through its own interface. The Python class of the `scienceworld` package asks after every step
for all actions that would be valid now, which takes ten times as long as the step.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import suppress
from typing import Any

from agentforge.environments.base import EnvironmentFailed
from agentforge.errors import UserError

MACHINES = 4
HEAP = "-Xmx2g"
_lock = threading.Lock()
_machines: list[JavaMachine] = []


class JavaMachine:
    """One Java process; several games can be played in it at the same time."""

    def __init__(self) -> None:
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
        from scienceworld.constants import JAR_PATH

        self._folder = tempfile.TemporaryDirectory(prefix="sciworld-")  # the simulator writes where it is started
        port, self._process = launch_gateway(
            classpath=str(JAR_PATH),
            javaopts=[HEAP],
            cwd=self._folder.name,
            die_on_exit=True,
            return_proc=True,
            # Ctrl-C goes to the whole group of a terminal: it must reach Python, which ends the episode, and not Java.
            create_new_process_group=True,
        )
        self._gateway = JavaGateway(gateway_parameters=GatewayParameters(auto_field=True, port=port))
        self.games = 0

    def start(self, task: str, variation: int, gold: bool) -> Any:
        """Return a game that has been loaded and reset.

        What the simulator draws it draws from a generator of the whole machine, which is seeded here.
        """
        game = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
        generator = self._gateway.jvm.java.lang.Class.forName("scala.util.Random$").getField("MODULE$").get(None)
        # Loading draws and resetting draws: seeded before each, a game does not depend on those played before it.
        generator.setSeed(variation)
        game.load(task, variation, "", gold)
        generator.setSeed(variation)
        game.reset()
        return game

    def forget(self, game: Any) -> None:
        """Let Java free a game."""
        self._gateway.detach(game)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        with suppress(Exception):  # it may be dead already
            self._gateway.shutdown()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._folder.cleanup()


def rent() -> JavaMachine:
    """Return the machine with the fewest games, a new one while there are fewer than `MACHINES`."""
    with _lock:
        _machines[:] = [machine for machine in _machines if machine.alive]
        # A start takes seconds and half a gigabyte, so a machine is shared rather than started, once there are four.
        if len(_machines) < MACHINES and all(machine.games for machine in _machines):
            try:
                _machines.append(JavaMachine())
            except Exception as error:
                raise EnvironmentFailed(f"ScienceWorld's Java process did not start: {error}") from error
        machine = min(_machines, key=lambda machine: machine.games)
        machine.games += 1
        return machine


def give_back(machine: JavaMachine) -> None:
    """Return a machine; it is stopped once nobody uses it."""
    with _lock:
        machine.games -= 1
        if machine.games == 0:
            machine.stop()
            if machine in _machines:
                _machines.remove(machine)


def check_installed() -> None:
    """Raise `UserError` if the package or Java is missing."""
    try:
        import scienceworld.constants  # noqa: F401
    except ImportError as error:
        raise UserError(
            "agentgym:sciworld needs the package scienceworld: pip install agentforge-train[sciworld]"
        ) from error
    if "JAVA_HOME" not in os.environ and shutil.which("java") is None:
        raise UserError("agentgym:sciworld needs Java: apt install default-jre-headless")
