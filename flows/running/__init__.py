"""How flows run: the engine, the held store, and the budget of questions to language models."""
