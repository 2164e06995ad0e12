"""Problems with their reference programs, one module a family."""
