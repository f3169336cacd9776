"""Counts Japanese characters in a response in Markdown, as the Swallow suite does for MT-Bench.

White space is not counted, so that a share does not depend on how lines are broken.
"""

import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

JAPANESE = re.compile("[\u3041-\u309f\u30a1-\u30ff\u4e00-\u9fff\uff01-\uff5e\u3000-\u3036]")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def count_japanese(markdown: str) -> tuple[int, int]:
    """Japanese characters of a response, and all of them, without the marks of Markdown and HTML."""
    text = "".join(_plain(markdown).split())
    return len(JAPANESE.findall(text)), len(text)


def _plain(markdown: str) -> str:
    parser = _Text()
    try:
        parser.feed(_markdown().render(markdown))
        parser.close()
    except AssertionError:  # html.parser's, of a declaration that it does not know, as in `<![x]>`
        return markdown
    return "".join(parser.parts)


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")
