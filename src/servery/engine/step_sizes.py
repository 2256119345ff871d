"""By what the sizes of steps are told apart."""

# Upper bounds in positions: vLLM's.
STEP_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
