"""``python -m agentforge``, which is also what ``accelerate launch -m agentforge`` runs."""

from agentforge.cli import main

if __name__ == "__main__":
    main()
