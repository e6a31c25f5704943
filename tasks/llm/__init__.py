"""Language models that word and judge: Anthropic's API, a local chat model, prices, and the log of calls."""
