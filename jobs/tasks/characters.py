"""One character for each meaning: widths, dashes, quotes, raised and lowered letters, and invisible characters."""

import re
import unicodedata

_SIGNS = str.maketrans(
    dict.fromkeys("−‐‑‒–—―﹣－", "-")
    | dict.fromkeys("×·⋅∙•✕∗⋆", "*")
    | dict.fromkeys("⁄÷∕", "/")
    | dict.fromkeys("’‘′ʹ", "'")
    | dict.fromkeys("“”„‟″", '"')
    | {
        "∆": "Δ",
        "⩽": "≤",
        "⩾": "≥",
        "、": ",",
        "〜": "~",
        "～": "~",
        "∶": ":",
        "º": "°",
        "˚": "°",
        "⟶": "→",
        "⟨": "<",
        "⟩": ">",
    }
)
_KEPT = frozenset("ℓ∑∏°º™℠ªﬀ…″") | frozenset("´¨¸¯˘˙˚")  # NFKC would flatten or split them
_JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])")
_VARIANTS = re.compile("[\ufe00-\ufe0f]")


def visible(text: str) -> str:
    """Without zero-width spaces, soft hyphens, direction marks and the like; joiners stay within emoji and scripts."""
    if text.isascii():
        return text
    text = _VARIANTS.sub("", _JOINERS.sub("", text))
    return "".join(c for c in text if c in "\u200c\u200d" or unicodedata.category(c) != "Cf" or c >= "\U000e0000")


def half_width(text: str) -> str:
    """Ａ, ７ and ＃ as A, 7 and #; everything else, and the length, as it was."""
    return text.translate(_WIDE)


_WIDE = {
    code: code - 0xFEE0 for code in (0xFF03, *range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))
}


def plain(text: str) -> str:
    """Compatible forms (NFKC), except that 10² stays a power (`10^{2}`), xᵢ an index (`x_{i}`), ½ a fraction
    (`\\frac{1}{2}`), and that dashes, quotes and signs of multiplication are ASCII's.
    """
    text = visible(text)
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    runs: list[tuple[str, str]] = []  # kind ("", "^" or "_") and text
    for char in text:
        kind, body = _compatible(char)
        if kind and runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + body)
        else:
            runs.append((kind, body))
    joined = "".join(f"{kind}{{{body}}}" if kind else body for kind, body in runs)
    return unicodedata.normalize("NFC", joined).translate(_SIGNS)


def _compatible(char: str) -> tuple[str, str]:
    """A character's compatible form and whether it is raised or lowered."""
    if char < "\x80" or char in _KEPT:
        return "", "..." if char == "…" else char
    kind, _, codes = unicodedata.decomposition(char).rpartition("> ")
    if not kind:
        return "", char
    body = "".join(chr(int(code, 16)) for code in codes.split())
    if kind == "<super":
        return "^", unicodedata.normalize("NFKC", body).translate(_SIGNS)
    if kind == "<sub":
        return "_", unicodedata.normalize("NFKC", body).translate(_SIGNS)
    if kind == "<fraction" and (parts := body.split("⁄"))[1:] and all(parts):
        return "", rf"\frac{{{parts[0]}}}{{{parts[1]}}}"
    return "", plain(body)
