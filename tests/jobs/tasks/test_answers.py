"""Reading final answers and comparing them by rule."""

import time

import pytest

from jobs.tasks.answers import equivalent, percent, read_answer


@pytest.mark.parametrize(
    ("response", "answer", "confidence"),
    [
        ("Explanation: two and two\nAnswer: 4\nConfidence: 85%", "4", 85),
        ("Explanation: x\nExact Answer: 4\nConfidence: 85.0 %", "4", 85),
        ("**Explanation:** x\n**Answer:** 4\n**Confidence:** 90%", "4", 90),
        ("**Answer: 4**\n**Confidence: 90%**", "4", 90),
        ("**Answer**: **B**\nConfidence: 7", "B", 7),
        ("*Answer:* 4", "4", None),
        ("### Final Answer: x^2\nConfidence: 100\\%", "x^2", 100),
        ("Answer:\n\n42\n\nConfidence: 50%", "42", 50),
        ("Answer:\n$$\n42\n$$\nConfidence: 50%", "$$\n42\n$$", 50),
        ("Answer: no, wait\nAnswer: 5\nConfidence: 10%\nConfidence: 20%", "5", 20),
        ("Explanation: a. Answer: 5 Confidence: 30%", "5", 30),
        ("Answer: The answer is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", None),
        ("so we get $\\boxed{7}$", "7", None),
        ("8 boxes of 9 are 72.\n#### 72", "72", None),  # as GSM8K's own solutions end
        ("#### 1\nno, once more:\n#### $1,200", "$1,200", None),
        ("#### Steps\nI do not know.", None, None),
        ("説明：計算した\n回答：42\n確信度：８５％", "42", 85),
        ("**答え**: 東京\n信頼度: 60%", "東京", 60),
        ("<think>Answer: 3\nConfidence: 1%</think>Answer: 4\nConfidence: 150%", "4", 150),
        ("Answer: 4\nConfidence: 0.95", "4", 95),
        ("Answer: 4\nConfidence: high", "4", None),
        ("<think>Answer: 3", None, None),
        ("I would say 42.", None, None),
        ("Answer:\nConfidence: 20%", None, 20),
        ("The answers: 4", None, None),
        ("", None, None),
    ],
)
def test_read_answer(response: str, answer: str | None, confidence: int | None) -> None:
    assert read_answer(response) == (answer, confidence)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(85, 85), (85.0, 85), ("85%", 85), (" 85.4 % ", 85), ("0.5%", 0), (0.85, 85), (1, 1), (150, 150), (-5, -5)]
    + [(value, None) for value in (None, True, "high", "", float("nan"), float("inf"), 10**400, "9" * 400, [85, 90])],
)
def test_percent(value: object, expected: int | None) -> None:
    assert percent(value) == expected


LETTER_B = """B|b|(B)|[B]|B.|B)|(B).|B) Paris|B. Paris|(B) Paris|B: Paris|The answer is B|**B**|$\\text{B}$|\\boxed{B}
|$\\mathbf{(B)}$|Option B|The correct answer is (B).|Answer: B|Ｂ|`B`""".replace("\n", "").split("|")


@pytest.mark.parametrize("answer", LETTER_B)
def test_choice_letter(answer: str) -> None:
    assert equivalent(answer, "B", "multipleChoice")
    assert equivalent(answer, "B. Paris", "multipleChoice")
    assert not equivalent(answer, "A", "multipleChoice")


@pytest.mark.parametrize(
    "answer",
    ["B and C", "B, C", "(B) or (C)", "B. or C", "BC", "Bob", "B dogs", "not B", "A B", "", "none", "B/C", "A, B"],
)
def test_no_single_choice_letter(answer: str) -> None:
    for letter in "ABC":
        assert not equivalent(answer, letter, "multipleChoice")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        ("42.", "42"),
        ("$42$", "42"),
        ("\\(42\\)", "42"),
        ("$$ 42 $$.", "42"),
        ("42.0", "42"),
        ("+42", "42"),
        ("-0", "0"),
        ("0.0", "0"),
        ("−3", "-3"),
        ("1,234,567", "1234567"),
        ("1{,}234", "1234"),
        ("1\\,234", "1234"),
        ("1,234.5", "1234.50"),
        ("３.５", "3.5"),
        (".5", "0.5"),
        ("\\frac{1}{2}", "1/2"),
        ("\\dfrac{1}{2}", "0.5"),
        ("$-\\frac12$", "-0.5"),
        ("\\frac{-1}{2}", "-1/2"),
        ("½", "0.5"),
        ("50\\%", "50%"),
        ("50%", "0.5"),
        ("1.2\\times10^{3}", "1200"),
        ("1.2 \\times 10^{-3}", "1.2e-3"),
        ("1.2 × 10³", "1.2e3"),
        ("1.2E3", "1200"),
        ("10^{6}", "1000000"),
        ("3.1415926", "3.1415927"),
        ("Yes.", "yes"),
        ("TRUE", "True"),
        ('"Tokyo"', "tokyo"),
        ("  New   York ", "New York"),
        ("\\text{New York}", "New York"),
        ("x + 1", "x+1"),
        ("x^{2}", "x^2"),
        ("x²", "x^2"),
        ("x₁", "x_{1}"),
        ("\\left( 1, 2 \\right)", "(1,2)"),
        ("\\{1, 2\\}", "{1,2}"),
        ("\\frac{\\pi}{2}", "π/2"),
        ("\\frac{\\sqrt{3}}{2}", "√3/2"),
        ("\\sqrt{2}", "sqrt(2)"),
        ("2\\cdot 3", "2·3"),
        ("90^\\circ", "90°"),
        ("\\mathrm{H_2O}", "H_{2}O"),
        ("\\boxed{42}", "42"),
        ("5 m/s", "5 m / s"),
        ("東京。", "東京"),
    ],
)
def test_equivalent(answer: str, gold: str) -> None:
    assert equivalent(answer, gold, "exactMatch")
    assert equivalent(gold, answer, "exactMatch")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "43"),
        ("12345678", "12345679"),  # whole numbers have no tolerance
        ("3.1415", "3.1416"),
        ("-1", "1"),
        ("10²", "102"),
        ("3½", "31/2"),
        ("x₂", "x2"),
        ("1 2", "12"),
        ("1, 234", "1234"),
        ("5!", "5"),
        ("f'", "f"),
        ("A*", "A"),
        ("50%", "50"),
        ("5 m", "5 km"),
        ("5 m", "5"),
        ("1/0", "0"),
        ("x", "x y"),
        ("the answer is 42", "42"),
        ("42 or 43", "42"),
        ("", "0"),
        ("yes", "no"),
        ("\\frac{1}{2+x}", "1/2+x"),
        ("(1,2)", "(2,1)"),
        ("1e999", "1e998"),
        ("nan", "1"),
        ("(1,2]", "1,2"),
    ],
)
def test_not_equivalent(answer: str, gold: str) -> None:
    assert not equivalent(answer, gold, "exactMatch")
    assert not equivalent(gold, answer, "exactMatch")


def test_huge_digits_and_exponents_are_no_trouble() -> None:
    for text in ("9" * 5000, "1e999999999", "10^10^10", "1/" + "9" * 1999, "(" * 1000 + "1" + ")" * 1000, "{" * 2000):
        assert not equivalent(text[:2000], "42", "exactMatch")
        assert equivalent(text[:2000], text[:2000], "exactMatch")


def test_long_and_strange_texts_take_no_time() -> None:
    fill = [
        "\n" * 50_000,
        "$" * 50_000,
        "Answer: " * 20_000,
        "\\frac{" * 20_000,
        "* " * 50_000,
        "9" * 100_000,
        "(" * 50_000,
    ]
    start = time.process_time()
    for text in fill:
        answer, _ = read_answer(text + "\nAnswer: " + text)
        for kind in ("exactMatch", "multipleChoice"):
            assert not equivalent(answer or text, "42", kind)
            assert not equivalent(text[:2000], "B", kind)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("最終的な答え：42", "42"),
        ("最終的な回答：42", "42"),
        ("【回答】42", "42"),
        ("【答え】\n42", "42"),
        ("答えは42です。", "42"),
        ("よって、答えは 42 です。", "42"),
        ("正解：B", "B"),
        ("正答：42", "42"),
        ("答案：42", "42"),
        ("Ａｎｓｗｅｒ：４２", "42"),
        ("Answer (final): 42", "42"),
        ("**Answer (exact)**: 42", "42"),
        ("The answer is: 42", "42"),
        ("So the final answer is: **42**", "42"),
        ("The final answer is $42$. I hope it is correct.", "$42$"),
        ("Final Answer: The final answer is $42$. I hope it is correct.", "$42$"),
        ("Therefore, the answer is 3.5.", "3.5"),
        ("ANSWER - 42", "42"),
        ("Answer = 42", "42"),
        ("## Answer\n42", "42"),
        ("**Answer**\n\n42", "42"),
        ("**Final Answer**\n\nThe answer is $\\boxed{42}$.", "42"),
        ("### Final Answer:\n```\n42\n```", "42"),
        ('{"answer":"42","confidence":85}', "42"),
        ('```json\n{"final_answer": 4.20, "confidence": 0.85}\n```', "4.20"),
        ('{"reasoning": "x", "answer": ["A", "C"]}', '["A", "C"]'),
        ("<answer>42</answer>", "42"),
        ("Answer: 3, no\n<answer>\n42\n</answer>", "42"),
        ("\\fbox{7}", "7"),
        ("\\boxed 7", "7"),
        ("\\boxed7", "7"),
        ("\\boxed{\\text{(B)}}", "\\text{(B)}"),
        ("Answer: \\begin{pmatrix}1&2\\\\\n3&4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\\n3&4\\end{pmatrix}"),
        ("Answer: \\[\n42\n\\]\nConfidence: 5%", "\\[\n42\n\\]"),
        ("Answer: [1,\n2]\nConfidence: 5%", "[1,\n2]"),
        ("Answer: (1\nConfidence: 5%", "(1"),
        ("#### .5", ".5"),
        ("#### 3/4", "3/4"),
        ("#### 1e3", "1e3"),
        ("#### 1,2,3", "1,2,3"),
        ("#### -$5", "-$5"),
        ("#### −5", "−5"),
        ("#### \\boxed{72}", "72"),
        ("#### **72**", "**72**"),
        ("#### USD 72", "USD 72"),
        ("#### 72 apples", "72"),
        ("#### 3 million", "3 million"),
        ("#### €5", "5"),
        ("**#### 72**", "72"),
        ("Answer: #### 72", "72"),
        ("#### between 3 and 4", None),
        ("#### Step 2", None),
        ("#### Case x = 2\n\nThe answer is 5.", "5"),  # a heading
        ("#### x = 72", "x = 72"),
        ("#### Total: 72", "72"),
        ("＃＃＃＃ ７２", "72"),
        ("{'answer': '42', 'confidence': 80}", "42"),
        ("{'final_answer': \"it's\"}", "it's"),
        ("{'answer': 'A' or 'B'}", None),
        ("<answer>42", "42"),  # the server stopped at the closing tag
        ("Answer: 41\n<answer>\n42", "42"),
        ("<answer>42</answer>\n<answer>", "42"),
        ("<answer>42\nbecause", None),
        ("I put it into <answer> tags", None),
        ("<ans>42</ans>", "42"),
        ("Answer → 42", "42"),
        ("Answer -> 42", "42"),
        ("Final answer => 42", "42"),
        ("Answer: 42\nans->next = 5;", "42"),
        ("(Answer: 42)", "42"),
        ("(Answer: [0,1))", "[0,1)"),
        ("「答え」：42", "42"),
        ("답: 42", "42"),
        ("최종 답변: 42", "42"),
        ("Incorrect answer: 41", None),
        ("The answer depends.", None),
        ("Answers may vary: 4", None),
    ],
)
def test_other_labels(response: str, answer: str | None) -> None:
    assert read_answer(response)[0] == answer


ENDS = ["<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|return|>", "<|endoftext|>", "<｜end▁of▁sentence｜>"]
ENDS += ["<end_of_utterance>", "<turn|>"]


@pytest.mark.parametrize("tail", ENDS)
@pytest.mark.parametrize("after", ["", "\n", "\n<|im_start|>user\nAnswer: 7"])
def test_tokens_that_end_a_turn(tail: str, after: str) -> None:
    assert read_answer(f"Answer: 42{tail}{after}") == ("42", None)
    assert read_answer(f"Answer: 42\nConfidence: 9%{tail}{after}") == ("42", 9)


@pytest.mark.parametrize("unseen", "\u200b\ufeff\u00ad\u2066\u2069\u200e\u2060\u202c")
def test_what_nobody_sees(unseen: str) -> None:
    assert read_answer(f"{unseen}An{unseen}swer: {unseen}42{unseen}\nConf{unseen}idence: 8{unseen}5%") == ("42", 85)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Explanation: R1 opens with <think> here.\nAnswer: 42", "42"),
        ("Explanation: it closes with </think> tags.\nAnswer: 4", "4"),
        ("Answer: use the </think> tag", "use the </think> tag"),
        ("Answer: </think>", "</think>"),
        ("Answer: <|im_end|>", "<|im_end|>"),
        ("Answer: the token <|im_end|> ends it", "the token <|im_end|> ends it"),
        ("<thinking>Answer: 3</thinking>\nAnswer: 4", "4"),
        ("<reasoning>Answer: 3", None),
        ("[THINK]Answer: 3[/THINK]Answer: 4", "4"),
        ("◁think▷Answer: 3◁/think▷Answer: 4", "4"),
        ("<|channel|>analysis<|message|>Answer: 3", None),
        ("analysisAnswer: 3assistantfinalAnswer: 4", "4"),
    ],
)
def test_thoughts_are_no_answers(response: str, answer: str | None) -> None:
    assert read_answer(response)[0] == answer


@pytest.mark.parametrize(
    "part",
    [
        "<answer>",
        "<answer> ",
        "'answer':'",
        "#### x = ",
        "```",
        "#### 1\n",
        "#### ",
        "#### 1 ",
        "####",
        "####\n",
        " ",
        "Confidence: ",
        "The answer is ",
        "\\boxed{",
        "{",
        "</s>",
        '{"answer":',
        "【",
        "1,234 ",
    ],
)
def test_reading_takes_linear_time(part: str) -> None:
    start = time.process_time()
    answer, _ = read_answer(part * (100_000 // len(part)))
    read_answer("#### " + part * (100_000 // len(part)))
    equivalent((answer or part * 250)[:2000], part * (2000 // len(part)), "multipleChoice")
    assert time.process_time() - start < 2
