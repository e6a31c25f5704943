"""Circuit Insights under its own name: `python -m circuit_insights` is the command line wherever one stands."""

from importlib.metadata import version

__version__ = version("circuit-insights")
