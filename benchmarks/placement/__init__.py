"""Placements against each other: what each makes of the same bursts, on an engine that is paid for and an API that bills."""
