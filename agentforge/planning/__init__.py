"""What a recipe takes before anything is spent: parameters, memory, hours, dollars; and what a machine lacks."""
