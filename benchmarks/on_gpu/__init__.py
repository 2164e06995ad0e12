"""The parts of `benchmarks.gpu`, each in a process of its own."""
