"""Texts of models and corpora for display: nothing in them is active, and nothing of them is hidden."""

from interp.display import visible

TOKEN_LENGTH = 60
"""Largest number of characters of a token in a list."""

N_HEATS = 9
"""Colour steps behind tokens; 0 is no colour."""


def prose(text: str | None) -> str:
    """A description or a message, with control and format characters made visible."""
    return "" if text is None else "\n".join(visible(line) if line.strip() else "" for line in text.split("\n"))


def token(text: str | None) -> str:
    """A token in a list: outer blanks are visible, and it is cut if it is very long."""
    if text is None:
        return ""
    shown = visible(text[: TOKEN_LENGTH + 1])
    return shown if len(text) <= TOKEN_LENGTH else shown[:TOKEN_LENGTH] + "…"


def running(text: str) -> str:
    """A token in a running text: blanks stay blanks, a line break is shown as ↵."""
    if text.isprintable():
        return text
    parts = text.replace("\r\n", "\n").split("\n")
    return "↵".join(_spaced(part) for part in parts)


def _spaced(text: str) -> str:
    inner = text.strip(" ")
    if not inner:
        return text
    lead, trail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return " " * lead + visible(inner) + " " * trail


def heat(value: float | None, greatest: float | None) -> int:
    """The colour step of a value relative to the greatest; 0 for no activation, at least 1 otherwise."""
    if not value or not greatest or value <= 0 or greatest <= 0:
        return 0
    return max(1, min(N_HEATS, round(N_HEATS * value / greatest)))


def figure(value: float | int | None, digits: int = 3) -> str:
    """A number with this many significant digits, a real minus sign and grouped thousands; an en dash if there is
    none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        text = f"{value:,}".replace(",", "\u2009")
    elif value == 0:
        text = "0"
    elif abs(value) >= 1e5 or abs(value) < 1e-4:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """A share as a percentage, with more digits if it is small."""
    if value is None:
        return "–"
    share = 100 * value
    return f"{share:.0f}%" if share >= 10 or share == 0 else f"{share:.2g}%" if share >= 0.001 else f"{share:.1e}%"
