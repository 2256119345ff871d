"""A model divided among processes: who has what of it, and the sums they take."""
