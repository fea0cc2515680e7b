"""The parts of a section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup
from matplotlib.figure import Figure

from ...records.foreign import plain
from ..tables import Table
from ._svg import inline


@dataclass(frozen=True)
class Picture:
    """A figure; `themed` if its black and white follow the theme of the page."""

    svg: Markup
    caption: str
    themed: bool = True
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    lines: Sequence[str]
    tone: Literal["", "warning"] = ""
    kind: Literal["words"] = "words"


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    text: str
    label: str
    kind: Literal["code"] = "code"


Block = Table | Picture | Words | Code


@dataclass
class Section:
    """A section of the page.

    Attributes:
        id: The id on the page.
        title: The title.
        blocks: The content.
        level: 2 for a comparison, or for all comparisons; 3 for a part of a comparison.
    """

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    level: int = 2


def picture(
    draw: Callable[[], Figure | None], name: str, caption: str, what: str, *, themed: bool = True
) -> list[Block]:
    """Draws a figure.

    Args:
        draw: Creates the figure; None if there is nothing to draw.
        name: The start of all ids in the figure.
        caption: The caption.
        what: The name of the figure in a warning.
        themed: Whether black and white follow the theme of the page.

    Returns:
        The figure, or a warning if these data cannot be drawn; nothing if there is no figure.
    """
    try:
        if (figure := draw()) is None:
            return []
        return [Picture(inline(figure, f"{name}-", caption, themed=themed), caption, themed)]
    except Exception as error:  # untrusted data: the rest of the page must be shown
        reason = plain(f"{what} cannot be drawn ({type(error).__name__}: {error}).")
        return [Words([reason], "warning")]
