"""Fused against naive: `python -m benchmarks`, or `pytest benchmarks --benchmark-only`."""
