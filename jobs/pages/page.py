"""A report as sections of text, lists, tables and figures, written as Markdown and as one self-contained HTML page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cluster.streams import visible


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are texts; columns from the second on are set flush right where `numeric`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG element with what it shows; on the page only, since Markdown can't hold it. Tables have its figures."""

    svg: str
    caption: str


Block = Text | Items | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: Sequence[Block]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += [_markdown(block) for block in section.blocks if not isinstance(block, Figure)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Text | Items | Table) -> str:
    if isinstance(block, Text):
        return _markdown_text(block.text)
    if isinstance(block, Items):
        return "\n".join(f"- {_markdown_text(item)}" for item in block.items)
    ruler = ["---", *["---:" if block.numeric else "---"] * (len(block.columns) - 1)]
    rows = [[_literal(_plain(cell)) for cell in row] for row in (block.columns, *block.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ruler, *rows[1:]))


def _markdown_text(text: str) -> str:
    """Our backquotes stay code; everything else is shown as it is, wherever it came from."""
    parts = re.split("(`[^`]*`)", _plain(text))
    literal = "".join(part if place % 2 else _literal(part) for place, part in enumerate(parts))
    return re.sub(r"^(\d+)?([-+.)])(?= |$)", r"\1\\\2", literal)  # would begin a list


def _literal(text: str) -> str:
    """Without Markdown and HTML: what either would read is escaped."""
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, entity)
    return re.sub(r"[\\`*\[\]#|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)  # snake_case needs no escape


def _plain(text: str) -> str:
    """On one line, and without what a terminal or a browser obeys."""
    return visible(" ".join(text.split()))


def to_html(title: str, sections: Sequence[Section]) -> str:
    """A page that loads nothing, follows the reader's dark or light setting, and prints in black on white."""
    body = "\n".join(
        f"<section>\n<h2>{escape(section.title)}</h2>\n{''.join(map(_html, section.blocks))}</section>"
        for section in sections
    )
    return PAGE.format(title=escape(title), style=STYLE, body=body)


def _html(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>\n"
    if isinstance(block, Items):
        return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in block.items)}</ul>\n"
    if isinstance(block, Figure):
        return f"<figure>{block.svg}<figcaption>{escape(block.caption)}</figcaption></figure>\n"
    head = "".join(f"<th>{escape(column)}</th>" for column in block.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in block.rows)
    kind = ' class="numeric"' if block.numeric else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n'


def _inline(text: str) -> str:
    """Markdown's backquotes as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(_plain(text)))


def _cell(text: str) -> str:
    """Verdicts are coloured, and still words where there are no colours."""
    kind = {"pass": ' class="pass"', "fail": ' class="fail"', "not measured": ' class="none"'}.get(text, "")
    return f"<td{kind}>{escape(_plain(text))}</td>"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

# The series' colours are apart for colour-blind readers too; dashes distinguish them in print.
LIGHT = """  --paper: #ffffff; --ink: #1b1f24; --quiet: #5b6470; --line: #d5dae0;
  --pass: #116329; --fail: #b3261e;
  --series-a: #0060b0; --series-b: #c04a00; --series-c: #007a5a; --series-d: #8a3a9c; --series-e: #7a6200;"""
DARK = """  --paper: #14171a; --ink: #e4e8ec; --quiet: #9aa4af; --line: #363d45;
  --pass: #63c97e; --fail: #ff8a80;
  --series-a: #62b0ff; --series-b: #ff9f5a; --series-c: #4fd0a5; --series-d: #d79be6; --series-e: #dcc15a;"""
STYLE = f""":root {{
{LIGHT}
}}
@media screen and (prefers-color-scheme: dark) {{
:root {{
{DARK}
}}
}}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }}
h1 {{ font-size: 1.6rem; margin: 0 0 1rem; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }}
p, li {{ max-width: 46rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: .75rem 0; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .75rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); }}
th {{ color: var(--quiet); font-weight: 600; vertical-align: bottom; }}
.numeric th + th, .numeric td + td {{ text-align: right; padding-left: .75rem; white-space: nowrap; }}
.pass {{ color: var(--pass); font-weight: 600; }}
.fail {{ color: var(--fail); font-weight: 600; }}
.none {{ color: var(--quiet); }}
figure {{ margin: 1rem 0; }}
figure svg {{ width: 100%; max-width: 46rem; height: auto; }}
figcaption {{ color: var(--quiet); font-size: .9rem; max-width: 46rem; }}
svg text {{ fill: var(--quiet); font: 13px system-ui, sans-serif; }}
svg .axis {{ stroke: var(--line); fill: none; }}
svg .series {{ fill: none; stroke-width: 2; }}
svg .bar {{ fill: var(--series-a); }}
svg .low {{ fill: var(--fail); }}
{"".join(f"svg .{letter} {{ stroke: var(--series-{letter}); }} " for letter in "abcde")}
svg .b {{ stroke-dasharray: 8 3; }}
svg .c {{ stroke-dasharray: 2 3; }}
svg .d {{ stroke-dasharray: 8 3 2 3; }}
svg .e {{ stroke-dasharray: 14 4; }}
svg .computed {{ stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 4 4; }}
@media print {{
main {{ max-width: none; padding: 0; }}
body {{ font-size: 11pt; }}
tr, figure {{ break-inside: avoid; }}
h2 {{ break-after: avoid; }}
thead {{ display: table-header-group; }}
}}"""
