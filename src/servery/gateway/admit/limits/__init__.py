"""How much a key, an owner and a model may take: reserved before, settled after."""
