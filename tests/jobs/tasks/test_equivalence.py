"""Same value in another notation is the same answer; another value never is."""

import pytest

from jobs.tasks.equivalence import equivalent

FRACTIONS = [
    ("-\\frac{m^2}{2}", "-m^2/2"),
    ("\\frac{2\\pi}{3}", "2π/3"),
    ("\\frac{2 \\pi}{3}", "2π/3"),
    ("\\frac{3x}{4}", "3x/4"),
    ("\\frac{1}{2^n}", "1/2^n"),
    ("\\frac 12", "1/2"),
    ("\\frac{1}2", "1/2"),
    ("\\frac1{72}", "1/72"),
    ("\\frac\\pi2", "π/2"),
    ("\\frac{-\\sqrt3}{3}", "-\\frac{\\sqrt{3}}{3}"),
    ("\\frac{x+1}{2}", "(x+1)/2"),
    ("\\frac{1}{2x}", "1/(2x)"),
    ("\\cfrac{5}{6}", "5/6"),
    ("1½", "3/2"),
    ("1\\frac{4}{5}", "9/5"),
    ("137 \\frac{1}{2}", "137.5"),
    ("-1 1/2", "-1.5"),
    ("⅔", "2/3"),
]
ROOTS = [("\\sqrt2", "√2"), ("11\\sqrt2", "11 \\sqrt{2}"), ("2√3", "2\\sqrt{3}"), ("sqrt 2", "\\sqrt{2}")]
ROOTS += [("\\sqrt[3]{2}", "∛2"), ("\\sqrt{x+1}", "√(x+1)"), ("\\sqrt{12}", "√12")]
SIGNS = [(f"{minus}3", "-3") for minus in "‐‑‒–—―−－"] + [("+∞", "\\infty"), ("(-\\infty, +\\infty)", "(-∞, ∞)")]
GROUPS = [(f"1{space}234", "1234") for space in " \u00a0\u202f\u2009',"] + [
    ("1'234'567", "1234567"),
    ("1’234’567", "1234567"),
    ("1_000_000", "1000000"),
    ("1,234 m", "1234 m"),
    ("2,500 J", "2500 J"),
    ("$1,234", "1234"),
    ("\\$32,\\!348", "$32348"),
    ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
    ("x = 1,234", "1234"),
    ("-$1,234.50", "-1234.5"),
]
SCIENTIFIC = [
    ("1.5 x 10^-7", "1.5e-7"),
    ("1.5 X 10^{-7}", "1.5e-7"),
    ("1.5 \\times {10}^{-7}", "1.5e-7"),
    ("1.5 \\cdot 10^{-7}", "1.5E-7"),
    ("3×10^8 m/s", "3e8 m/s"),
    ("3 × 10⁸ m/s", "3e8 m/s"),
    ("3.0 m", "3 m"),
    ("10⁻³", "0.001"),
]
UNITS = [
    ("5km", "5 km"),
    ("5\\text{m}", "5 m"),
    ("5~\\mathrm{m}", "5 m"),
    ("100円", "100 円"),
    ("45º", "45°"),
    ("45^{\\circ}", "45 degrees"),
    ("5 \\mu m", "5 µm"),
    ("20 ℃", "20^\\circ\\mathrm{C}"),
    ("15\\mbox{ cm}^2", "15 cm²"),
    ("15 ㎡", "15 m^2"),
    ("50 percent", "50\\%"),
    ("5 Apples", "5 apples"),
]
COMMANDS = [
    ("x\\le1", "x ≤ 1"),
    ("x \\geqslant 1", "x>=1"),
    ("a\\ne b", "a ≠ b"),
    ("f: A \\to B", "f: A → B"),
    ("A \\cup B \\cap C", "A ∪ B ∩ C"),
    ("x \\in S", "x∈S"),
    ("\\Delta", "Δ"),
    ("\\Delta", "∆"),
    ("\\Omega", "Ω"),
    ("\\Gamma(n)", "Γ(n)"),
    ("\\ln 2", "ln 2"),
    ("\\ln{2}", "ln 2"),
    ("2\\sin x", "2 sin x"),
    ("\\log(x)", "log(x)"),
    ("\\exp(-x)", "exp(-x)"),
    ("1,2,\\ldots,n", "1, 2, …, n"),
    ("\\emptyset", "∅"),
    ("\\approx 3", "≈3"),
    ("A \\otimes B", "A⊗B"),
    ("\\lfloor x \\rfloor", "⌊x⌋"),
    ("\\hbar", "ℏ"),
    ("\\ell", "ℓ"),
    ("\\mathcal{O}(n)", "O(n)"),
    ("O(n \\log n)", "O(n log n)"),
    ("\\boldsymbol{x}", "x"),
    ("\\displaystyle \\frac{1}{2}", "1/2"),
    ("{\\rm x}", "x"),
    ("{10}^{3}", "1000"),
    ("1{,}000", "1000"),
    ("2 \\cdot x", "2x"),
    ("\\lambda", "λ"),
    ("\\upsilon", "υ"),
    ("\\binom{n}{k}", "\\dbinom nk"),
]
FORMULAS = [("H₂O", "H2O"), ("H_2O", "H2O"), ("Ca²⁺", "Ca2+"), ("Ca^{2+}", "Ca2+"), ("\\ce{H2O}", "H2O")]
FORMULAS += [("SO₄²⁻", "SO42-"), ("NH_4^+", "NH4+"), ("\\mathrm{Fe(OH)_3}", "Fe(OH)3"), ("Na^+", "Na+")]
LISTS = [
    ("(0.5, 1)", "(1/2, 1)"),
    ("1、2、3", "1,2,3"),
    ("[1,2.0]", "[1, 2]"),
    ("\\{2, 1\\}", "{1, 2}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, π/2)"),
    ("\\begin{pmatrix} -1/3 \\\\ 2/3 \\end{pmatrix}", "\\begin{bmatrix}-\\frac13\\\\\\frac23\\end{bmatrix}"),
    ("\\left[\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right]", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}"),
    ("\\begin{pmatrix}1&2\\\\\n3&4\\end{pmatrix}", "[[1, 2], [3, 4]]"),
    ("(-\\infty, 2) \\cup (3, \\infty)", "(-∞,2)∪(3,∞)"),
]
DRESS = [
    ("「東京」", "東京"),
    ("『東京』", "東京"),
    ("x=5", "5"),
    ("5", "x = 5"),
    ("y = 2x + 3", "2x+3"),
    ("f(x)=2x", "2x"),
]
DRESS += [
    ("x \\in [-2,7]", "[-2,7]"),
    ("eˣ", "e^x"),
    ("xᵢ", "x_i"),
    ("x^{2}", "x^2"),
    ("x^{2}y", "x^2y"),
    ("2^{10}", "2^10"),
]
DRESS += [
    ("TRUE", "True"),
    ("new york", "New York"),
    ("Yes", "yes"),
    ("No", "no"),
    ("Lord Of The Rings", "Lord of the rings"),
]
DRESS += [
    ("42\u200b", "42"),
    ("\ufeff42", "42"),
    ("4\u00ad2", "42"),
    ("\u206642\u2069", "42"),
    ("3.1415926", "3.1415927"),
]
DRESS += [
    ("0.3333333", "1/3"),
    ("1000001", "1000000.5"),
    ("7.000001", "7"),
    ("Vitamin C", "vitamin C"),
    ("```\n42\n```", "42"),
]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [*FRACTIONS, *ROOTS, *SIGNS, *GROUPS, *SCIENTIFIC, *UNITS, *COMMANDS, *FORMULAS, *LISTS, *DRESS],
)
def test_same_in_other_notation(answer: str, gold: str) -> None:
    assert equivalent(answer, gold, "exactMatch")
    assert equivalent(gold, answer, "exactMatch")
    assert equivalent(f"${answer}$", gold, "exactMatch") or "$" in answer or "、" in answer


EXACT = [
    ("12345678.0", "12345679"),
    ("100000001/1", "100000000"),
    ("1e20", "100000000000000000001"),
    ("99999999999999999999.0", "99999999999999999998"),
    ("20000001.", "20000000.0"),
    ("6000001/2", "3000000"),
    ("+12345678", "12345679"),
    ("$12345678", "12345679"),
    ("12345678 m", "12345679 m"),
    ("(12345678.0, 1)", "(12345679, 1)"),
    ("12345678\\%", "12345679%"),
    ("1.2345678e7", "12345679"),
    ("1 12345677/12345678", "2"),
]
GROUPED = [
    ("e^{2}x", "e^{2x}"),
    ("2^{n}k", "2^{nk}"),
    ("10^{2}3", "10^{23}"),
    ("a_{i}j", "a_{ij}"),
    ("x^{a}b", "x^{ab}"),
    ("x^{2}3", "x^{23}"),
    ("x_{1}2", "x_{12}"),
    ("C_{1}2", "C_{12}"),
    ("\\frac{1}{2}3", "1/23"),
    ("a/\\frac{b}{c}", "a/b/c"),
    ("x\\frac{1}{2}", "x_1/2"),
    ("\\frac{1}{2x}", "1/2x"),
    ("{ab}^2", "ab^2"),
    ("\\sqrt{2}x", "\\sqrt{2x}"),
    ("(\\frac{a}{b})^2", "\\frac{a}{b^2}"),
]
RAISED = [
    ("2ᵏ", "2k"),
    ("2ˣ", "2x"),
    ("xᵢ", "xi"),
    ("aₙ", "an"),
    ("aᵇ", "ab"),
    ("x²", "x2"),
    ("㎡", "m2"),
    ("3½", "31/2"),
]
RAISED += [("x₁₂", "x12"), ("10⁻⁷", "10-7"), ("H^2O", "H2O"), ("A⁺", "A")]
CASE = [
    ("AaBb", "AABB"),
    ("AABB", "aabb"),
    ("Aabb", "AABB"),
    ("Rr", "RR"),
    ("5 mW", "5 MW"),
    ("8 Gb", "8 GB"),
    ("5 MeV", "5 meV"),
    ("Co", "CO"),
    ("No", "NO"),
    ("C1CCCCC1", "c1ccccc1"),
    ("CCO", "cco"),
    ("\\phi", "Φ"),
    ("Σ", "σ"),
    ("x", "X"),
    ("f(ABC)", "f(abc)"),
    ("Vitamin K", "Vitamin k"),
    ("x = ABC", "x = abc"),
]
SIGN_ONLY = [
    ("-.-.", "-.-"),
    ("-..", "-"),
    (",", "."),
    (":", ";"),
    ("", "..."),
    (".- -...", ".--..."),
    ("1,2,3,...", "1,2,3"),
]
SIGN_ONLY += [("()", "[]"), ("+", "-"), ("^", ""), ("?", "!")]
CONTENT = [
    ("x=5", "y=5"),
    ("x=5", "x=6"),
    ("€5", "5"),
    ("€5", "$5"),
    ("5 m", "5"),
    ("-3/4", "3/4"),
    ("3/4", "4/3"),
    ("(1,2)", "[1,2]"),
    ("[1,2]", "[2,1]"),
    ("{1,1,2}", "{1,2,2}"),
    ("Ca2+", "Ca2-"),
    ("NH4+", "NH3+"),
    ("CO", "CO2"),
    ("1,2,3", "123"),
    ("1, 234", "1234"),
    ("100 200", "100200 m"),
    ("3.1415", "3.1416"),
    ("42", "42!"),
    ("|x|", "x"),
    ("\\bar{x}", "x"),
    ("\\vec{v}", "v"),
    ("\\Re z", "z"),
    ("New York City", "New York"),
    ("U.S.A", "USA"),
    ("≤5", "5"),
    ("~5", "5"),
    ("5 mg", "5 Mg"),
    ("ttgg", "TTGG"),
    ("\\frac{1}{2}(a+b)", "1/(2(a+b))"),
    ("±5", "5"),
    ("≈5", "5"),
    ("log_2 8", "log_3 8"),
    ("204_5", "204_6"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"),
    ("[[1,2],[3,4]]", "[[1,3],[2,4]]"),
]


@pytest.mark.parametrize(
    ("answer", "gold"), [*EXACT, *GROUPED, *RAISED, *CASE, *SIGN_ONLY, *CONTENT, ("x²", "x_2"), ("1e2001", "1e2002")]
)
def test_another_content(answer: str, gold: str) -> None:
    assert not equivalent(answer, gold, "exactMatch")
    assert not equivalent(gold, answer, "exactMatch")
