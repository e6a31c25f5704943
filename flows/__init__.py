"""What runs, in what order: one flow a file, and the command line."""

import os

# Before Prefect is imported anywhere: nothing is reported to anyone.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
