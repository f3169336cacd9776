"""Takes code out of a response, and says what a piece of Python defines and which names it uses."""

import ast
import builtins
import importlib
from functools import cache

# What the originals import by star before a submission runs, and what they so provide: `median`, `add`, `Counter`, …
STAR_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
STAR_PRELUDE = "".join(f"from {name} import *\n" for name in STAR_MODULES)
TYPING_PRELUDE = "from typing import *\n"


def fenced_blocks(response: str) -> list[str]:
    """The contents of a response's fenced code blocks, by CommonMark: indented and unclosed ones too."""
    from markdown_it import MarkdownIt

    return [token.content for token in MarkdownIt("commonmark").parse(response) if token.type == "fence"]


def last_block(response: str, entry_point: str) -> str:
    """The last block with `def entry_point`, else the last block, else ""."""
    blocks = fenced_blocks(response)
    defining = [block for block in blocks if f"def {entry_point}" in block]
    return (defining or blocks or [""])[-1]


def parsed(code: str) -> ast.Module | None:
    """None where it is not Python."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defines(tree: ast.Module, name: str) -> bool:
    """Whether a module itself binds a name: by def, class, assignment or import, also within if, try or with."""
    statements: list[ast.stmt] = list(tree.body)
    for statement in statements:  # which grows meanwhile
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if statement.name == name:
                return True
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
                return True
            if isinstance(node, ast.alias) and (node.asname or node.name) == name:
                return True
        statements += [inner for inner in ast.iter_child_nodes(statement) if isinstance(inner, ast.stmt)]
        for handler in getattr(statement, "handlers", []):
            statements += handler.body
    return False


def uses_star_names(tree: ast.Module) -> bool:
    """Whether a module reads a name that only STAR_PRELUDE provides, and not TYPING_PRELUDE."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return not names.isdisjoint(star_names())


@cache
def star_names() -> frozenset[str]:
    """All names of STAR_PRELUDE that are neither Python's own nor those of `typing`."""
    found = {name for module in STAR_MODULES for name in _public(module)}
    return frozenset(found - set(dir(builtins)) - _public("typing"))


def _public(module: str) -> set[str]:
    loaded = importlib.import_module(module)
    return set(getattr(loaded, "__all__", None) or (name for name in dir(loaded) if not name.startswith("_")))
