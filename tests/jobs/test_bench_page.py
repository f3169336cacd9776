"""The report's two forms show every text as text, whatever it holds."""

import html
import re

import pytest

from jobs.pages.page import Items, Section, Table, Text, to_html, to_markdown

OUTSIDE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "![i](http://evil/x.png)",
    "**bold** and _thin_ and __x__",
    "a | b | c",
    "# heading",
    "- item",
    "1. item",
    "one\n\n# two\n\n| a | b |",
    "`code` and ` half",
    "R&amp;D &lt;b&gt;",
    "\\[ \\* back\\slash",
    "~~gone~~ $x$",
    "\x1b[31mred\x1b[0m \x9b2J \u202egnp.exe",
]
TAGS = {"section", "h2", "p", "ul", "li", "div", "table", "thead", "tbody", "tr", "th", "td", "code"}


@pytest.mark.parametrize("text", OUTSIDE)
def test_texts_from_outside_are_no_markup(text: str) -> None:
    sections = [Section("Part", [Text(text), Items([text]), Table(("name", "value"), [(text, text)], numeric=False)])]
    markdown, page = to_markdown("Title", sections), to_html("Title", sections)
    body = page[page.index("<section>") : page.index("</section>")]
    for shown in (markdown, body):
        assert all(sign.isprintable() or sign == "\n" for sign in shown)
        assert "<script" not in shown and "<img" not in shown and "<b>" not in shown
    assert set(re.findall(r"</?(\w+)", body)) <= TAGS
    lines = [line for line in markdown.split("\n") if line]
    assert len(lines) == 2 + 1 + 1 + 3, "title, heading, paragraph, item, and a table of three lines"
    assert len(re.findall(r"(?<!\\)\|", lines[-1])) == 3, "of two cells"
    for line in (lines[2], lines[3].removeprefix("- ")):
        assert not re.match(r"[-+#]|\d+[.)] ", line)
        outside_code = re.sub("`[^`]*`", "", re.sub(r"\\([^\w\s]|_)", "", line))
        assert not re.search(r"[`*\[\]#|~$<>]|(?<!\w)_|_(?!\w)", outside_code)
    plain = html.unescape(re.sub("<[^>]*>", "", body))
    if text.isprintable() and "`" not in text:
        assert plain.count(" ".join(text.split())) == 4


def test_our_own_code_stays_code() -> None:
    section = [Section("Part", [Text("`all_reduce`: at most 4 GB/s by vllm_serve.")])]
    assert to_markdown("Title", section).endswith("`all_reduce`: at most 4 GB/s by vllm_serve.\n")
    assert "<code>all_reduce</code>" in to_html("Title", section)
