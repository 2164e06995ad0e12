"""The entry of ``agentforge``, ``python -m agentforge`` and ``accelerate launch -m agentforge``."""

from agentforge.launching import follow_launcher
from agentforge.stopping import stoppable


def main() -> None:
    """Run the command line; from the first import on, a signal ends it with one line."""
    with stoppable():
        follow_launcher()
        from agentforge.cli import main as run

        run()


if __name__ == "__main__":
    main()
