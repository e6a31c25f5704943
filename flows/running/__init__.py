"""How flows run: the engine, the locked store, and the budget of questions to language models."""
