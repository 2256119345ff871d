"""The gateway alone on one core, beside its peers."""
