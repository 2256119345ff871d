"""The OpenAI API as bytes: requests decoded and checked, answers encoded; no I/O."""
