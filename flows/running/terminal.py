"""The consoles for all output."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from interp.display import escaped

WIDE = 1_000_000
"""Width of output that does not go to a terminal, in characters."""


class Terminal(Console):
    """A console that escapes control sequences from any source. In a file or a pipe, lines are as long as needed."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr)
        if not self.is_terminal:
            self._width = WIDE

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed, with control sequences escaped."""
        for segment in super().render(renderable, options):
            if segment.control or not self.is_terminal:
                yield segment
            else:
                yield segment._replace(text="\n".join(map(escaped, segment.text.split("\n"))))
