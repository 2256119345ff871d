"""Where a request goes, and what is done when that place does not answer: until the first chunk."""
