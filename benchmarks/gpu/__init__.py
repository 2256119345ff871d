"""What the engine reaches on a GPU, beside what that GPU reaches at all: the parts of `benchmarks.gpu_suite`."""
