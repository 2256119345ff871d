"""From the text that a model writes to what it means: reasoning, content, tool calls."""
