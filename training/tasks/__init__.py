"""What the amuse models can do: generators of questions with one verifiable answer each."""
