"""What a recipe takes, before anything is spent: parameters, memory, FLOPs, hours, dollars; and what a machine lacks."""
