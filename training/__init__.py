"""How the amuse models are made, from nothing: tasks, tokenizer, training, evaluation, export."""
