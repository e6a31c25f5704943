"""Language models as explainers and judges: endpoints, a local chat model, prices, and the log of calls."""
