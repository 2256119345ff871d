"""Whether an exchange is taken, and which models may answer it."""
