"""What each part of Cognate does, on small tasks, in minutes on two cores.

    python -m agentforge.systems.cognate.ablation            the whole battery (about 45 minutes)
    python -m agentforge.systems.cognate.ablation --quick    the questions with the largest answers (minutes)

The real model is trained on synthetic tasks, several seeds for each arm, and two arms that differ in one thing are
compared seed by seed. What makes no difference that the seeds can tell from noise is reported as just that.
"""
