"""Models: building, loading and locating them."""
