"""LoRA adapters (arXiv 2106.09685): several at once over one base model, loaded and unloaded while it runs."""
