"""Recorded and synthetic traffic: when requests came, how long they were, what they shared."""
