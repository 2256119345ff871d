"""EleutherAI's evaluation harness, lm-eval: the same tasks through the API and offline."""
