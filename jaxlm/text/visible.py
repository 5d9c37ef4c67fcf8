"""Text made safe to show: characters that would act on what shows them become visible instead."""

import contextlib
import html
import re

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters other than tab and line feed, and those that override the direction of text."""


def visible(text: str, encoding: str = "utf-8") -> str:
    """Text whose control characters are visible stand-ins, which the encoding has, and have no effect."""
    return _CONTROLS.sub(lambda found: _mark(found[0], encoding), text)


def _mark(character: str, encoding: str) -> str:
    """A visible stand-in for a control character: its picture, such as ␛, or else an escape, such as \\x1b."""
    code = ord(character)
    picture = chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else None
    escape = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    with contextlib.suppress(UnicodeEncodeError):
        if picture and picture.encode(encoding):
            return picture
    return escape


def whole(text: str) -> str:
    """`visible` text without halves of characters, as names of files may have them."""
    return visible(text).encode("utf-8", "replace").decode("utf-8")


def as_html(text: str) -> str:
    """Text as HTML that shows it and does nothing else."""
    return html.escape(whole(text))
