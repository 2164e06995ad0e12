"""Optimisers of the house, for any recipe of any system. `recipe/optimizers.py` has their names and options."""
