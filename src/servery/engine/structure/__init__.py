"""Constrained decoding: what an answer must look like, checked, compiled, and applied as masks on logits."""
