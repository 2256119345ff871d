"""The inference engine: importable alone, knows nothing of the server or the gateway."""
