"""What runs, in what order: one flow a file, and the command line."""

import os

from flows.environment import loopback_without_proxy, writable_caches

# Before Prefect is imported anywhere: nothing is reported to anyone.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

loopback_without_proxy()
writable_caches()
