"""`init`: from a data file, a base and a goal to a recipe that runs."""
