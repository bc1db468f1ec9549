"""Side-by-side timings against the tools that an administrator would use instead. Run: ``python -m benchmarks``."""
