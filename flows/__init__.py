"""The flows of the pipeline, one in each file, and the command line."""

import os

from flows.environment import loopback_without_proxy, writable_caches

# Set before Prefect is imported anywhere: no usage data is sent.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

loopback_without_proxy()
writable_caches()
