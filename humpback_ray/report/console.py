"""The console of the command line: foreign text stays text, and a stream may be closed.

Pages, models and file names may hold escape sequences, which would clear the screen or change its
title, and bidirectional controls, which would show lines in another order than they have.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment
from rich.text import Text

# Control characters but tab and line feed; Unicode's line separators, bidirectional controls,
# annotation marks and invisible tags; lone surrogates, which no encoding can write.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""A text with every control character in Python's notation, as `\x1b` for an escape."""
    text = text.replace("\r\n", "\n")
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Console(rich.console.Console):
    """Rich's console, through which no control character of a text reaches the terminal.

    Names of emoji stay as they are, because Rich would replace a `:bug:` in the text of a page.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Markup as styled text, made visible before its layout so that columns stay aligned."""
        return super().render_str(visible(text), **options)

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        """The pieces of a renderable. Those that Rich itself controls the terminal with stay."""
        for segment in super().render(renderable, options):
            if segment.control or not CONTROLS.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Go on without output where its reader has left, as in `humpback look RUN | head`.

        The exit code is then the command's own, and a run is not stopped by its log's reader.
        """
        self.quiet = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.file.fileno())
        os.close(null)


def open_streams() -> None:
    """Make the three standard streams usable, whatever state the caller left them in.

    A closed one leads nowhere: otherwise the next file that is opened takes its number, and a
    library that prints writes into that file. A character that the terminal's encoding lacks
    becomes a question mark, so an arrow ends no run under a cp1252 or C locale.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")
