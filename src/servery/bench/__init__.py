"""Measuring a model behind an address: a precise client, the load, percentiles, and the machine's own limits."""
