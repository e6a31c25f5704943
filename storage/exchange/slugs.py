"""Names as viewers of attribution graphs take them."""

import re


def slug_of(text: str) -> str:
    """A text as viewers take it for a name: letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.").lower()[:60] or "graph"
