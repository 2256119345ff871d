"""Guessing tokens ahead and checking several of them in one step of the model."""
