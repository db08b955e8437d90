"""A live display on a terminal that may be made narrower while it is shown.

rich 15 erases as many rows as it has drawn lines. A terminal that was made narrower has wrapped each line into several
rows, and those that rich does not erase would stay on the screen for good.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.live_render import LiveRender
from rich.segment import Segment


class ReflowedLive(Live):
    """A live display that takes the rows of a narrower terminal into account.

    Args:
        draw: returns what is to be shown.
        console: the terminal.
        refreshes_per_second: how often it is drawn.
    """

    def __init__(self, draw: Callable[[], RenderableType], console: Console, refreshes_per_second: float) -> None:
        super().__init__(console=console, get_renderable=draw, refresh_per_second=refreshes_per_second, transient=True)
        self._live_render = _Reflowed(console)


class _Reflowed(LiveRender):
    def __init__(self, console: Console) -> None:
        super().__init__("")
        self._console = console
        self._widths: list[int] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._widths = [0]
        for part in super().__rich_console__(console, options):
            if isinstance(part, Segment):
                if part.text == "\n":
                    self._widths.append(0)
                else:
                    self._widths[-1] += part.cell_length
            yield part

    def position_cursor(self) -> Control:
        if self._shape is not None:
            width = max(1, self._console.width)
            self._shape = self._shape[0], sum(max(1, -(-each // width)) for each in self._widths)
        return super().position_cursor()
