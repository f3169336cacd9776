"""Chemical formulas in all notations: `H₂O`, `H_2O` and `H2O`; `Ca²⁺`, `Ca^{2+}` and `Ca2+`."""

import re

_ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y
        Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re
        Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg
        Cn Nh Fl Mc Lv Ts Og D""",
    )
)
_BODY = re.compile(r"\d*(?:[A-Z][a-z]?\d*|[(\[]|[)\]]\d*|\*\d*)+")
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_INDEX = re.compile(r"(?<=[A-Za-z)\]])_\((\d+)\)(?!\d)")
_CHARGE = re.compile(r"\^\((\d*)([+-])\)\Z|\^\((\d+)\)([+-])\Z|\^([+-])\Z")
_ATOM_CHARGE = re.compile(r"([A-Z][a-z]?)(\d*)([+-])\Z")
_TYPED_CHARGE = re.compile(r"(.*[A-Za-z)\]]\d?)(\d?)([+-])\Z")


def formula(text: str) -> tuple[str, str] | None:
    """What is equal for equal formulas: the atoms with their numbers, and the charge; None for any other text.

    `text` is normalised. In a charge that is typed on the line, one digit behind a single atom is the charge's
    (Ca2+), behind several atoms an index (NH4+), and the second digit the charge's (SO42-).
    """
    text = _INDEX.sub(r"\1", text)
    charge = ""
    if found := _CHARGE.search(text):
        text = text[: found.start()]
        charge = (found[2] or found[4] or found[5]) + (found[1] or found[3] or "1")
    elif found := (_ATOM_CHARGE.fullmatch(text) or _TYPED_CHARGE.fullmatch(text)):
        text, charge = found[1], found[3] + (found[2] or "1")
    if not _BODY.fullmatch(text) or not all(symbol in _ELEMENTS for symbol in _SYMBOL.findall(text)):
        return None
    return text, charge
