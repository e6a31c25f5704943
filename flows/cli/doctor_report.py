"""The findings of `doctor`, as lines for people or as one JSON object."""

from dataclasses import dataclass, field

from rich.console import RenderableType
from rich.markup import escape

from flows.cli.answers import SCHEMA
from flows.cli.app import out, print_json


@dataclass
class DoctorReport:
    """Checks in order, and numbers by name."""

    as_json: bool
    checks: list[dict[str, object]] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def good(self, name: str, text: str) -> None:
        """Report a check that passed."""
        self._check(name, text, ok=True)

    def bad(self, name: str, text: str) -> None:
        """Report a check that failed."""
        self._check(name, text, ok=False)

    def say(self, what: RenderableType) -> None:
        """Print something for people only: a table whose numbers are also in `figures`, or a sentence."""
        if not self.as_json:
            out.print(what, soft_wrap=True, highlight=False)

    def finish(self) -> None:
        """Print the JSON object, if it was asked for."""
        if self.as_json:
            ok = all(check["ok"] for check in self.checks)
            print_json({"schema": SCHEMA, "ok": ok, "checks": self.checks, **self.figures})

    def _check(self, name: str, text: str, *, ok: bool) -> None:
        self.checks.append({"name": name, "ok": ok, "text": text})
        if not self.as_json:
            mark = "[green]✓[/]" if ok else "[red]✗[/]"
            out.print(f"{mark} [bold]{name}[/] {escape(text)}", soft_wrap=True, highlight=False)
