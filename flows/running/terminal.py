"""The consoles that everything printed goes through."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from interp.display import escaped

WIDE = 1_000_000
"""Characters of a line that is not for a terminal."""


class Terminal(Console):
    """A console that shows whatever would steer a terminal escaped, wherever it comes from. A file or a pipe is as wide
    as what is written to it."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr)
        if not self.is_terminal:
            self._width = WIDE

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not self.is_terminal:
                yield segment
            else:
                yield segment._replace(text="\n".join(map(escaped, segment.text.split("\n"))))
