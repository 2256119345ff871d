"""Evaluation: what a system answers right, how two systems compare, and whether one may replace the other."""
