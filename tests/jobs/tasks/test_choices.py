"""An option's label in all forms; several options are never one."""

import pytest

from jobs.tasks.equivalence import equivalent

LETTER_D = """選択肢D|Dです|正解はD
|正解はDです。|【D】|「D」|D、東京|D 東京|D（東京）|D - 12|D – 12|D (12)|D; 12|D, Paris
|{D}|<D>|letter D|D is correct|D is the correct answer.|I think it is D|I choose (D).|It's D|答えはD
|選択肢はDだ|Dが正しい|Dを選びます|D.|D: 12:30|(D)|D) x|The best choice is D.|option (D): Paris|D. Vitamin C
|D. B cells|D) f(x)|D. (x, y)|D) A dog|D. False|(D) Paris|Ｄ|⒟|D = 12|d|\\text{(D)}|$\\textbf{(D)}\\ 12$
|D is correct because it is larger|**D.** 12|D。|D: I am right""".replace("\n|", "|").split("|")


@pytest.mark.parametrize("answer", LETTER_D)
def test_the_letter(answer: str) -> None:
    assert equivalent(answer, "D", "multipleChoice")
    assert equivalent(answer, "(D)", "multipleChoice")
    assert not equivalent(answer, "A", "multipleChoice")
    assert not equivalent(answer, "C", "multipleChoice")
    assert not equivalent(answer, "A, D", "multipleChoice")


SEVERAL = """(A), (C)|(A)(C)|(A) (C)|[A], [C]|(A);(C)|(A)/(C)|(A) & (C)|（A）、（C）|A.C|A:C|A)C)|A. (C)
|A. Paris, C. Rome|A) x; C) y|A: 12\nC: 13|A. Paris\nC. Rome|A. Incorrect. The right one is C
|(A) is false, (C) is true|A, C|A and C|AC|A、C|A/C|A. or C|A or C|A C|A\nC|A; C|A + C|A vs C|A - C|A → C
|{A}, {C}|AとC|AまたはC|「A」「C」|A not C|not A but C|A is wrong, C is right|A (or C)|A. (C) 12
|Either A or C|both A and C|A, maybe C|(A) or (C)|A. x (C) y|A) 1 C) 2|The answer is A or C
|A. Not this; choose C|A: wrong. C: right|a) x c) y|A is correct, and so is C|Aではない、C|A,C|A.  C.
|option A, option C|A. Paris C. Rome|A = C|Option A, Option C|Option A. Option C|A; Answer C|A, Choice C
|A (Option C)|選択肢A、選択肢C|Choice A, Choice C""".replace("\n|", "|").split("|")


@pytest.mark.parametrize("answer", [*SEVERAL, "A|C", "A||C"])
def test_several_are_never_one(answer: str) -> None:
    assert not equivalent(answer, "A", "multipleChoice")
    assert not equivalent(answer, "C", "multipleChoice")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("(1)", "1"),
        ("1", "(1)"),
        ("1.", "1"),
        ("①", "1"),
        ("選択肢1", "1"),
        ("1) 12 apples", "1"),
        ("1番", "1"),
        ("The answer is 1.", "1"),
        ("（ア）", "ア"),
        ("ア", "（ア）"),
        ("アです", "ア"),
        ("ア: 東京", "ア"),
        ("選択肢ア", "ア"),
        ("A、C", "A, C"),
        ("C, A", "A, C"),
        ("A and C", "A, C"),
        ("(A) and (C)", "A, C"),
        ("AC", "A, C"),
        ("AとC", "A、C"),
        ("Options A, C", "A and C"),
        ("12", "12"),
        ("Tokyo", "tokyo"),
        ("B. Paris", "B. Paris"),
    ],
)
def test_other_references(answer: str, gold: str) -> None:
    assert equivalent(answer, gold, "multipleChoice")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1.5", "1"),
        ("1, 2", "1"),
        ("1/2", "1"),
        ("(1), (2)", "1"),
        ("1-2", "1"),
        ("11", "1"),
        ("1 2", "1"),
        ("10%", "10"),
        ("ア、イ", "ア"),
        ("アイ", "ア"),
        ("アとイ", "ア"),
        ("A", "A, C"),
        ("A, B", "A, C"),
        ("A, B, C", "A, C"),
        ("A, C", "A"),
        ("A dog", "A"),
        ("Bob", "B"),
        ("A-level", "A"),
        ("I am not sure", "I"),
        ("all except D", "D"),
        ("D is wrong", "D"),
        ("not D", "D"),
        ("Dではない", "D"),
        ("D以外", "D"),
        ("none", "N"),
        ("A", "a1"),
        ("", "A"),
        ("()", "A"),
        ("D is not correct", "D"),
    ],
)
def test_another_or_none(answer: str, gold: str) -> None:
    assert not equivalent(answer, gold, "multipleChoice")
