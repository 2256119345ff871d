"""Servery: an LLM serving stack — an inference engine, a gateway and the instruments to decide by."""

__version__ = "0.1.0"
