"""Numbers in all notations, as exact fractions."""

import re
from dataclasses import dataclass
from fractions import Fraction

from jobs.tasks.notation import normalise, written

RELATIVE_TOLERANCE = Fraction(1, 10**6)
_LONGEST = 2000  # digits; Python reads 4,300
_LARGEST_EXPONENT = 2000

_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_CURRENCY = r"[$€£¥₩₹]|US\$|USD |usd "
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<currency>" + _CURRENCY + r")?(?P<inner>[+-]?)(?:"
    r"(?P<whole>\d+) (?P<part>\d+)/(?P<of>\d+)"
    rf"|(?P<open>\()?(?P<top_sign>[+-]?)(?P<top>{_DECIMAL})(?(open)\))/"
    rf"(?P<open2>\()?(?P<bottom_sign>[+-]?)(?P<bottom>{_DECIMAL})(?(open2)\))"
    r"|10\^\((?P<power>[+-]?\d{1,4})\)"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[+-]?\d{{1,4}})|\*10\^\((?P<times>[+-]?\d{{1,4}})\))?"
    r")(?P<unit>(?![\d.])(?:[^\W\d_]|[%°'\"$€£¥₩₹‰]).*)?",
    re.DOTALL,
)
_SIGNS = "$€£¥₩₹"
_NO_THING = (  # words behind a number that make it another one, or one of several
    r"(?:(?:hundred|thousand|million|billion|trillion|lakh|crore|dozen|half|halve|third|quarter|fifth)s?"
    r"|k|bn|mn|mil|percent|per cent|or|and|to|plus|minus|times|over|by|x)\b"
)
_THINGS = re.compile(  # a number, and maybe what is counted: 72 apples, 72km, 72個; but not "2. Case", 5x
    rf"(?P<number>[^\n]*\d[^\s\w]*)(?:(?:(?<![.:,;)])\s+|(?=[^\W\d_]{{2}}|[^\x00-\x7f]))(?!{_NO_THING})"
    r"[(\[*_]?[^\W\d_]\D*)?",
    re.IGNORECASE,
)
_CODE = re.compile(r"(?:[A-Z]{3} ?|[A-Z]{1,2}(?=\$)|Rs\.? ?)(?=[$\d.])")  # EUR 72, HK$72
_LONGEST_THINGS = 200  # characters
# What may introduce a number: "x =", "Total cost:", "about"; and a sum that equals it: "8 * 9 =".
NUMBERS_NAME = (
    r"(?:(?!(?:not|never|half|twice|double|step|case|part|minus|negative)\b)[^\W\d_]{3,}"
    r"(?: (?!(?:times|plus|minus|not)\b)[^\W\d_]{3,}){0,2} ?="
    r"|(?:the )?(?:(?:final|correct|total|numeric(?:al)?) )?(?:answer|total|result|sum)(?: is)? ?[:：]?"
    r"|(?:答え|合計|答|計)(?:は|[:：=])|about|approximately|approx\.?|around|roughly|約|およそ|[~≈])"
)
_INTRODUCED = re.compile(rf"[*_` ]*(?:{NUMBERS_NAME}|(?=[\d$(])[\d$.,() ]+(?:[-+*/×÷][\d$.,() ]+)+=) ?", re.IGNORECASE)
_CALCULATED = re.compile(r"<<[^<>]*>>")  # GSM8K's own notes
_ALIKE = {"$": "", "US$": "", "USD": "", "usd": "", "dollars": "", "dollar": ""}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and what stands behind or, for a currency, before it."""

    value: Fraction
    exact: bool  # whole, or a ratio of whole numbers; other decimals may have been rounded
    unit: str  # "" for a pure number and for dollars; percent are a hundredth

    def same(self, other: "Quantity") -> bool:
        """Exact numbers must be the same number; others may differ by the relative tolerance."""
        if self.unit != other.unit:
            return False
        if self.exact and other.exact:
            return self.value == other.value
        return abs(self.value - other.value) <= RELATIVE_TOLERANCE * max(abs(self.value), abs(other.value))


def number(text: str) -> Fraction | None:
    """The value of a text that is one single number; None for any other.

    Read are decimals, ratios, mixed and scientific numbers, powers of ten and percentages (a hundredth), grouped
    (1,234; 1 234; 1'234) or not, with a sign of any kind and a currency's sign, in LaTeX, Markdown or full width.
    More than 2,000 digits and exponents beyond 2,000 are not a number.
    """
    found = quantity(normalise(text))
    return found.value if found and found.unit in ("", *_SIGNS) else None


def bare_number(text: str) -> str | None:
    """The number in GSM8K's dialect, where only numbers are compared, without what stands around it: a currency's sign,
    brackets, an equals sign, what is left of Markdown, or the word for what is counted (`€5`, `(72)`, `72**`,
    `72 apples`). None where it is not a single number: `72 or 71`, `1,2,3`; nor is a part of a larger one: `3 million`.
    """
    if len(text) > _LONGEST_THINGS:
        return None
    found = _THINGS.fullmatch(written(_stripped(text)))
    if not found or number(bare := _CODE.sub("", _stripped(found["number"]), count=1)) is None:
        return None
    return re.sub(f"[{_SIGNS}]", "", written(bare))


def introduced_number(text: str) -> str | None:
    """As `bare_number`, also behind what the number is called or comes of: `x = 72`, `8 * 9 = 72`, `about 72`."""
    text = _CALCULATED.sub("", text[: _LONGEST_THINGS + 1])
    lead = _INTRODUCED.match(text)
    return bare_number(text[lead.end() :] if lead else text)


def _stripped(text: str) -> str:
    return text.lstrip(" \t=:*_`\"'([").rstrip(" \t.,;:!?*_`\"')]")


def quantity(text: str) -> Quantity | None:
    """The number that a normalised text begins with and its unit; None where it begins otherwise."""
    if len(text) > _LONGEST or not (found := _NUMBER.fullmatch(text)):
        return None
    if found["sign"] and found["inner"]:
        return None
    value = _value(found)
    if value is None:
        return None
    negative = sum(found[name] == "-" for name in ("sign", "inner", "top_sign", "bottom_sign")) % 2
    ratio = found["whole"] or (found["top"] and "." not in found["top"] + found["bottom"])
    unit = found["unit"] or found["currency"] or ""
    exact = bool(ratio) or value.denominator == 1
    if unit == "%":
        value, unit = value / 100, ""
    return Quantity(-value if negative else value, exact, _ALIKE.get(unit.strip(), unit))


def _value(found: re.Match[str]) -> Fraction | None:
    if found["whole"]:
        whole, part, of = (int(found[name]) for name in ("whole", "part", "of"))
        return whole + Fraction(part, of) if part < of else None
    if found["top"]:
        bottom = Fraction(_padded(found["bottom"]))
        return Fraction(_padded(found["top"])) / bottom if bottom else None
    exponent = int(found["power"] or found["exponent"] or found["times"] or 0)
    if abs(exponent) > _LARGEST_EXPONENT:
        return None
    return Fraction(_padded(found["decimal"] or "1")) * Fraction(10) ** exponent


def _padded(decimal: str) -> str:
    """Fraction reads neither "5." nor ".5"."""
    return f"0{decimal}0" if "." in decimal else decimal
