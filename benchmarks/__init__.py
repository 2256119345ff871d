"""Measurements of this project; each run writes a dated JSON under `results/`. Run as `python -m benchmarks.NAME`."""
