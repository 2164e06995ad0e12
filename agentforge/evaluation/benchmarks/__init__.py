"""Public benchmarks through lm-evaluation-harness (EleutherAI), for every model of every system.

What is asked and how an answer is judged is the harness's, so that scores are those of its own command. Ours is what
surrounds it: which model, from which files the rows come, where generated code is run, and what a score is worth.
"""
