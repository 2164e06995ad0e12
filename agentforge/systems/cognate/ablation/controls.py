"""What the real model is compared with or measured by: an EMA in place of each memory, and the FLOPs of a token."""
