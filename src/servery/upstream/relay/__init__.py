"""Answers whose API the client speaks itself, passed on as they come."""
