"""Anthropic's Messages API, spoken to."""
