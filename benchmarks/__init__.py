"""Figures with their commands. Prefect is set up as the command line sets it up, before anything imports it."""

import flows.cli  # noqa: F401
