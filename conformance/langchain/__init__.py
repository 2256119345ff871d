"""LangChain's standard integration tests for chat models."""
