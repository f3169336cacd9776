"""LaTeX's commands by their replacement in one line of text."""

import re

_WORDS = re.compile(r"\w+")
GREEK = _WORDS.findall(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi
    psi omega"""
)
SYMBOLS = {
    name: sign
    for sign, names in {
        "*": "times cdot ast bullet star",
        "/": "div slash",
        "∞": "infty",
        "°": "degree textdegree",
        "≤": "le leq leqslant",
        "≥": "ge geq geqslant",
        "≠": "ne neq",
        "<": "lt langle",
        ">": "gt rangle",
        "≪": "ll",
        "≫": "gg",
        "±": "pm",
        "∓": "mp",
        "→": "to rightarrow longrightarrow",
        "←": "gets leftarrow longleftarrow",
        "↔": "leftrightarrow longleftrightarrow rightleftharpoons",
        "⇒": "implies Rightarrow Longrightarrow",
        "⇔": "iff Leftrightarrow Longleftrightarrow",
        "↦": "mapsto",
        "∪": "cup bigcup",
        "∩": "cap bigcap",
        "∈": "in",
        "∉": "notin",
        "∋": "ni",
        "⊂": "subset",
        "⊆": "subseteq",
        "⊃": "supset",
        "⊇": "supseteq",
        "\\": "setminus backslash smallsetminus",
        "∅": "emptyset varnothing",
        "≈": "approx thickapprox",
        "≃": "simeq",
        "≅": "cong",
        "~": "sim",
        "≡": "equiv",
        "∝": "propto",
        "⊗": "otimes bigotimes",
        "⊕": "oplus bigoplus",
        "∘": "circ",
        "∧": "land wedge",
        "∨": "lor vee",
        "¬": "neg lnot",
        "∀": "forall",
        "∃": "exists",
        "∂": "partial",
        "∇": "nabla",
        "∫": "int",
        "∑": "sum",
        "∏": "prod",
        "ħ": "hbar hslash",
        "ℓ": "ell",
        "ℵ": "aleph",
        "†": "dagger",
        "'": "prime",
        "⊥": "perp bot",
        "∥": "parallel",
        "∠": "angle",
        "△": "triangle",
        "...": "ldots dots cdots dotsc dotsb",
        "⌊": "lfloor",
        "⌋": "rfloor",
        "⌈": "lceil",
        "⌉": "rceil",
        "|": "mid vert lvert rvert",
        "‖": "Vert lVert rVert",
        "{": "lbrace",
        "}": "rbrace",
        "[": "lbrack",
        "]": "rbrack",
        ":": "colon",
        "%": "percent",
        "$": "dollar textdollar",
        "€": "euro texteuro",
        "£": "pounds textsterling",
        "Å": "AA angstrom",
        " mod ": "bmod",
        "i": "imath",
        "j": "jmath",
    }.items()
    for name in names.split()
}
FUNCTIONS = frozenset(
    _WORDS.findall(
        """sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp lim max min sup inf arg deg
    det dim gcd lcm ker mod Pr tr"""
    )
)
FONTS = frozenset(
    _WORDS.findall(
        """text textbf textit textrm textsf texttt textnormal textup emph mathrm mathbf mathit mathsf mathtt mathbb
    mathcal mathscr mathfrak mathnormal boldsymbol bm pmb operatorname mbox hbox ensuremath underline boxed fbox
    ce mathop mathrel mathbin mathord mathopen mathclose mathpunct si unit cancel smash vphantom"""
    )
)
DECLARATIONS = frozenset(
    _WORDS.findall(
        """rm bf it sf tt cal sl em bfseries itshape displaystyle textstyle scriptstyle scriptscriptstyle limits
    nolimits left right big bigl bigr bigm Big Bigl Bigr bigg biggl biggr Bigg Biggl Biggr middle normalsize
    large Large small strut hline centering"""
    )
)
SPACES = frozenset(_WORDS.findall("""quad qquad enspace thinspace space hfill newline"""))
ACCENTS = frozenset(
    _WORDS.findall("""hat bar vec tilde dot ddot overline overrightarrow widehat widetilde check breve""")
)
IGNORED_ARGUMENT = frozenset(_WORDS.findall("""phantom hspace vspace label tag color hphantom"""))
TRANSPARENT = frozenset(_WORDS.findall("""array aligned align gathered split equation multline alignedat"""))
MATRICES = frozenset(_WORDS.findall("""matrix pmatrix bmatrix Bmatrix smallmatrix psmallmatrix bsmallmatrix array"""))
