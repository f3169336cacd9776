"""How a judge's reply is read: in the forms that judges use, and whatever the answer holds that it quotes."""

import json
import time

import pytest

from jobs.tasks.task import Verdict
from jobs.tasks.verdicts import parse_verdict

YES = '{"extracted_final_answer": "5", "reasoning": "same", "correct": "yes", "confidence": 80, "strict": true}'


def said(text: str, thought: str = "") -> str | None:
    verdict = parse_verdict(text, thought)
    return verdict.verdict if verdict else None


def with_correct(value: str) -> str:
    return YES.replace('"yes"', value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(
            (f'"{word}"', "yes")
            for word in (
                "yes",
                "YES",
                "true",
                "True",
                "y",
                "correct",
                "はい",
                "正解",
                "正しい",
                "ｙｅｓ",
                "yes。",
                "yes!",
                "**yes**",
                *["yep", "right", "正確", "合っている", "✓", "✅"],
            )
        ),
        *(
            (f'"{word}"', "no")
            for word in (
                "no",
                "false",
                "False",
                "n",
                "incorrect",
                "いいえ",
                "不正解",
                "正しくない",
                "誤り",
                "No.",
                "ｎｏ",
                "wrong",
                *["nope", "not correct", "not equivalent.", "間違っています", "一致しない", "正確ではない", "✗", "❌"],
            )
        ),
        ('"yes, it matches"', "yes"),
        ('"yes (5 = 5)"', "yes"),
        ('"yes - both are 5"', "yes"),
        ('"yes because both are 5"', "yes"),
        ('"はい、一致します"', "yes"),
        ('"No - off by one"', "no"),
        ('"no, the correct answer is 4"', "no"),
        ('"いいえ。値が違う"', "no"),
        ('["yes"]', "yes"),
        ('["no"]', "no"),
        ('{"value": "yes"}', "yes"),
        ('{"verdict": "no"}', "no"),
        ('{"value": "yes", "note": "off by no more than rounding"}', "yes"),
        ("true", "yes"),
        ("false", "no"),
        *((value, None) for value in ("1", '"1"', "0", "null", "[]", "{}", '["yes", "no"]', "1.0", '""')),
        *(
            (f'"{words}"', None)
            for words in ("yes/no", "not yes", "yes or no", "yes, no", "yes, but no", "maybe", "unknown", "not sure")
        ),
        *(
            (f'"{words}"', None)
            for words in (
                "cannot tell",
                "partially",
                "correct answer is 5",
                "no difference",
                "yes if 5",
                "N/A",
                "yesterday",
                "not incorrect",
                "not correctly stated",
                "not equivalent in form but the same",
                "right or wrong",
                "right, but late",
                "rightly so",
                "間違っていない",
                "✓✗",
            )
        ),
    ],
)
def test_values(value: str, expected: str | None) -> None:
    assert said(with_correct(value)) == expected
    assert said(f"```json\n{with_correct(value)}\n```") == expected


@pytest.mark.parametrize(
    "text",
    [
        YES.replace('"yes",', '"yes", // they match\n'),
        YES.replace('"yes",', '"yes", # they match\n'),
        YES.replace('"yes",', '"yes", /* they match */'),
        YES.replace("{", "{ // verdict\n"),
        YES.replace("}", "\n# end\n}"),
        YES.replace('"', "'"),
        YES.replace('"', "'").replace("true", "True"),
        YES.replace("true", "True"),
        YES.replace('"', "“"),
        "{“extracted_final_answer”: “5”, “reasoning”: “same”, “correct”: “yes”, “confidence”: 80}",
        "{extracted_final_answer: '5', reasoning: 'same', correct: 'yes', confidence: 80}",
        '{extracted_final_answer: "5", reasoning: "same", correct: "yes", confidence: 80}',
        YES.replace('"yes"', "yes"),
        YES.replace("80", "80%"),
        YES.replace('"yes",', '"yes"'),
        YES.replace('"same",', '"same"'),
        YES.replace('"same",', '"same"\n'),
        YES.replace("80,", "80"),
        YES.replace("true", "True").replace("yes", "Yes, they match"),
        json.dumps(YES),
        json.dumps(json.dumps(YES)),
        YES.replace('"', '\\"'),
        json.dumps({"name": "verdict", "arguments": YES}),
        json.dumps({"name": "verdict", "arguments": json.loads(YES)}),
        json.dumps({"tool_calls": [{"function": {"name": "verdict", "arguments": YES}}]}),
        json.dumps({"verdict": json.loads(YES)}),
        f"[{YES}]",
        '{"extracted_final_answer": "...", "reasoning": "...", "correct": "yes/no", "confidence": 0}\n' + YES,
        '{"extracted_final_answer": "<answer>", "reasoning": "<why>", "correct": "yes" | "no", "confidence": 0-100}\n'
        + YES,
        'The format is {"correct": "yes or no"}.\n' + YES,
        '{"type": "object", "properties": {"correct": {"type": "string", "enum": ["yes", "no"]}}}\n' + YES,
        f"<thinking>First I said no. correct: no?</thinking>\n{YES}",
        f'<think>It says {{"correct": "no"}}</think>{YES}',
        "extracted_final_answer: 5\nreasoning: same\n- `correct`: yes\nconfidence: 80",
        "1. extracted_final_answer: 5\n2. reasoning: same\n3. correct: yes\n4. confidence: 80",
        "| extracted_final_answer | 5 |\n| reasoning | same |\n| correct | yes |\n| confidence | 80 |",
        "| key | value |\n|---|---|\n| extracted_final_answer | 5 |\n| reasoning | same |\n"
        "| **correct** | yes |\n| confidence | 80% |",
        "| extracted_final_answer | reasoning | correct | confidence |\n|---|:-:|---|---|\n| 5 | same | yes | 80 |",
        "[extracted_final_answer]: 5\n[reasoning]: same\n[correct]: yes\n[confidence]: 80",
        "extracted_final_answer: 5\nreasoning: same\n正誤：yes\nconfidence: 80",
        "extracted_final_answer：5\nreasoning：same\ncorrect：はい\nconfidence：80",
        "extracted_final_answer: 5\nreasoning: same\ncorrect: yes, since they match\nconfidence: 80",
        "<extracted_final_answer>5</extracted_final_answer>\n<reasoning>same</reasoning>\n<correct>yes</correct>\n<confidence>80</confidence>",
        "extracted_final_answer: 5\nreasoning: same\n**Correct**: **Yes**\nconfidence: 80",
        'extracted_final_answer: 5\nreasoning: same\n"correct": "yes",\nconfidence: 80',
        "extracted_final_answer = 5\nreasoning = same\ncorrect = yes\nconfidence = 80",
    ],
)
def test_forms(text: str) -> None:
    assert parse_verdict(text) == Verdict("yes", "5", "same", 80)
    negative = parse_verdict(text.replace("yes", "no").replace("Yes", "No").replace("はい", "いいえ"))
    assert negative is None or negative.verdict == "no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"reasoning": "he said "5" and so does the key", "correct": "yes", "confidence": 80}', "yes"),
        ('{"reasoning": "the set \\{1, 2\\} is "it"", "correct": "no"}', "no"),
        ("Correct? Yes", "yes"),
        ("correct:\nyes", "yes"),
        ("### correct\nno", "no"),
        ("判定：正解", "yes"),
        ("判定：不正解", "no"),
        ("判定：一致しない", "no"),
        ("正誤判定：正", "yes"),
        ("Is it correct? Yes", "yes"),
        ("Is the response correct? No", "no"),
        ("Is the answer correct? The response says: yes", None),
        ("<reason>no match</reason><correct>no</correct>", "no"),
        ("correct: ❌", "no"),
        ("<verdict><correct>yes</correct><confidence>80</confidence></verdict>", "yes"),
        ("<correct>\nno\n</correct>", "no"),
        (f"The response's answer is 5, which matches the key.\n\n```json\n{YES}\n```", "yes"),
        (f"At first it differs, but in the end both are equal.\n\n```json\n{YES}\n```", "yes"),
        (f"The first step is wrong, but the final answer is correct.\n{YES}", "yes"),
        (f"{YES}\n\nExplanation: there is no mismatch.", "yes"),
        (f"Verdict: {YES}", "yes"),
        (f"Here is my verdict on the response:\n{YES}", "yes"),
        (f"Here is the JSON response:\n```json\n{YES}\n```", "yes"),
        (f"以下が判定です。\n{YES}", "yes"),
        (f"<answer>{YES}</answer>", "yes"),
        (f"<tool_call>{json.dumps({'name': 'verdict', 'arguments': json.loads(YES)})}</tool_call>", "yes"),
        (f"\ufeff{YES}\u200b", "yes"),
        (f"{{{YES}}}", "yes"),
        (f"```json{YES}```", "yes"),
        (f"json\n{YES}", "yes"),
        (f"`{YES}`", "yes"),
        (f"Sure! I compared the response with [correct_answer].\n\n{YES}\n\nLet me know if you need more.", "yes"),
        (f"After comparing the response to the key:\n{YES}", "yes"),
        (f"The answer is No, and the key is No, so they match.\n{YES}", "yes"),
        (f"The form is not the same, but both are equivalent.\n{YES}", "yes"),
        ("{'reasoning': 'It is not written alike, it does not match in form', 'correct': 'yes'}", "yes"),
        ("{'reasoning': 'it's the same', 'correct': 'yes'}", "yes"),
        ('"extracted_final_answer": "5",\n"reasoning": "same",\n"correct": "yes"\n}', "yes"),
        ("| extracted_final_answer | No |\n| correct | yes |", "yes"),
        ("extracted_final_answer: No\nreasoning: both No\ncorrect: yes", "yes"),
        ("<verdict>yes</verdict>", "yes"),
        (f"correct: 'yes' when they mean the same. 'no' in every other case.\n\n{YES}", "yes"),
        ("correct: 'yes' when they mean the same. 'no' in every other case.\n\ncorrect: no", "no"),
        ("Final verdict: **yes**", "yes"),
        ("最終判定：正解です", "yes"),
        ("判定結果：不一致", "no"),
        ("correct: ✅ Yes", "yes"),
        ("correct: yes # they match", "yes"),
        ("correct — yes", "yes"),
        ('{"Correct?": "Yes"}', "yes"),
        ('{"isCorrect": true}', "yes"),
        ('{"final_verdict": "incorrect"}', "no"),
        ('{"data": [{"correct": "○"}]}', "yes"),
        ('{"correct": "yes, the value is the same, no discrepancy"}', "yes"),
        ('{"correct": "正解です"}', "yes"),
        ('{"correct": "不正解である。値が異なる"}', "no"),
        (f"{YES}<|im_end|>", "yes"),
        (f"{YES}.", "yes"),
        (f"The sets are {{'a', 'b'}} and {{\"a\", \"b\"}}.\n{YES}", "yes"),
    ],
)
def test_more_forms(text: str, expected: str | None) -> None:
    assert said(text) == expected


BEFORE = """Here is my evaluation:|Here is the verdict:|Output:|Result:|Final output:|Here's the JSON:|The verdict is:
My judgment is as follows:|Based on the comparison, the JSON object is:|Here is the structured output:|Response:
The response matches the correct answer.|Both answers are 5.|Extracted answer: 5. Correct answer: 5.
The answer is correct:
I'll compare the extracted answer with the correct answer.|The extracted final answer is \\boxed{5}.
以下に判定結果を示します：
Let me evaluate the response against the correct answer:|The two are equivalent, so:|Final answer:
回答と正解を比較した結果：
Here is the evaluation of the response in the requested format:|Therefore, the final verdict:|Here's my grading:
回答は5であり、正解と一致します。|[response] states 5 and [correct_answer] states 5.
## Evaluation⏎⏎Both are 5.⏎⏎**Verdict**
It isn't necessary to check units. Match.|The answer given is not simplified, but the value equals the reference.
The response does not show its work, yet its final answer is right."""


@pytest.mark.parametrize("words", BEFORE.replace("\n", "|").split("|"))
def test_words_before_an_object(words: str) -> None:
    for between in ("\n", "\n\n", " ", "\n```json\n"):
        assert said(words.replace("⏎", "\n") + between + YES) == "yes"


@pytest.mark.parametrize("tag", ["</think>", "<think>", "<thinking>", "</thinking>", "[/THINK]", "<|channel|>"])
@pytest.mark.parametrize("word", ["yes", "no"])
def test_tags_of_thoughts_within_strings_are_text(tag: str, word: str) -> None:
    reply = json.dumps(
        {"extracted_final_answer": "5", "reasoning": f"It ends in {tag} correct: maybe", "correct": word}
    )
    assert said(reply) == word
    assert said(f"```json\n{reply}\n```") == word
    assert said(f"Here is my verdict:\n{reply}") == word
    assert said(f"<think>hm, {tag[:3]}</think>\n{reply}") == word
    head, _, tail = reply.partition(tag)
    assert said(tail, thought=head) == word  # cut there by the client


@pytest.mark.parametrize(
    "answer",
    [r"\frac{1}{2}", r"\beta", r"\nu", r"\theta", r"\rho", r"\text{a}", r"\times", r"\neq 0", r"\to", r"\(x\)"],
)
@pytest.mark.parametrize("template", [YES, f"[{YES}", YES.replace('"yes",', '"yes", // fine\n'), f"Verdict:\n{YES}"])
def test_latex_keeps_its_backslash(answer: str, template: str) -> None:
    reply = template.lstrip("[").replace('"5"', f'"{answer}"').replace("same", f"{answer} is right")
    for text in (reply, reply.replace(answer, "\\" + answer)):  # as judges write it, and as they should
        assert parse_verdict(text) == Verdict("yes", answer, f"{answer} is right", 80)


def test_breaks_of_lines_stay() -> None:
    verdict = parse_verdict(r'{"reasoning": "one\ntwo\n\nnothing\tthen\r\n\u00e9 \"q\"", "correct": "no"}')
    assert verdict and verdict.reasoning == 'one\ntwo\n\nnothing\tthen\r\né "q"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, None) for value in ('"none"', '"NONE"', '"None."', "null", '""', "\"'None'\"", '"null"', '"なし"')),
        ('["5"]', "5"),
        ('[" 5 "]', " 5 "),
        ('["1", "2"]', "1, 2"),
        ('{"value": "5"}', "5"),
        ("5", "5"),
        ('"Nonet"', "Nonet"),
    ],
)
def test_extracted_answer(value: str, expected: str | None) -> None:
    verdict = parse_verdict(YES.replace('"5"', value))
    assert verdict and verdict.extracted_answer == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[80]", 80),
        ('{"value": 80}', 80),
        ('{"value": 80, "unit": "%"}', 80),
        ('["80%"]', 80),
        ("[]", None),
        ("{}", None),
    ],
)
def test_confidence(value: str, expected: int | None) -> None:
    verdict = parse_verdict(YES.replace("80", value))
    assert verdict and verdict.confidence == expected


@pytest.mark.parametrize(
    "text",
    [
        "correct: yes\ncorrect: no",
        '{"correct": "yes"}\n{"correct": "no"}',
        f"{YES}\ncorrect: no",
        '{"correct": "yes", "verdict": "no"}',
        '{"correct": "yes", "Correct": "no"}',
        '[{"correct": "yes"}, {"correct": "no"}]',
        f"correct: no</think>{YES}",
        "Is it correct? It may be, yes or no.",
        '{"correct": "yes/no"}',
        '{"a": "b", {"correct": "yes"}',
        '{"reasoning": "cut off", "correct": "yes"',
        '{"reasoning": "It says {"correct": "yes"} and so',
        '{"extracted_final_answer": "5", "reasoning": "correct: yes"}',
        '{"response": {"correct": "yes"}}',
        "I think that the answer is correct: it matches.",
        "correct: yes\n<think>\n<correct>yes</correct>\ncorrect: no",
        "correct: yes\n<think>\nquoted\\ncorrect: no",
    ],
)
def test_what_is_no_verdict(text: str) -> None:
    assert said(text) is None


PARTS = [
    *'[{}"\\`|<#*,_： \n“',
    '{"',
    '{"a":',
    '{"correct":',
    '{"a": 1,}',
    '{"correct": "yes"}',
    "{'correct': 'yes'}",
    "{ ",
]
PARTS += [
    '{"correct": "yes", ',
    "{'a': {",
    '{"a": "}{", ',
    "{// x\n",
    "{'correct': yes /*",
    "<correct>",
    "</think>",
    "<think>",
]
PARTS += [
    "is not ",
    "no ",
    "yes, ",
    "/*",
    "//",
    "- ",
    "1. ",
    "はい",
    '\\"',
    "```\n",
    "correct:",
    "correct:\n",
    "correct?",
]
PARTS += [
    "| a |\n",
    "The response is:\n",
    "correct is ",
    "not the very same right ",
    "https://",
    "。\n",
    "**correct** ",
]


@pytest.mark.parametrize("part", PARTS)
def test_long_replies_take_no_longer(part: str) -> None:
    long = part * (100_000 // len(part))
    for text in (long + YES, '{"reasoning": "' + long + '", "correct": "no"}'):
        start = time.process_time()
        parse_verdict(text, thought=long)
        assert time.process_time() - start < 3, part
