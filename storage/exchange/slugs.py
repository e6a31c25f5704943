"""Names that viewers of attribution graphs accept."""

import re


def slug_of(text: str) -> str:
    """Turn a text into such a name: letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.").lower()[:60] or "graph"
