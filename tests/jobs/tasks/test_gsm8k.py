"""GSM8K: which number an answer states, by the reading that the exam and the reward share."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.tasks import exact_match, gsm8k, hle
from jobs.tasks.answers import equivalent, read_answer
from jobs.tasks.task import Item
from orchestrator.records.types import digest

ROWS = [
    {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
    {"question": "A price?", "answer": "#### $1,234"},
]
OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "gsm8k" / "example_model_solutions.jsonl.gz"


@pytest.mark.parametrize(
    ("solution", "truth", "expected"),
    [
        ("So it is 48 + 24.\n#### 72", "72", 1),
        ("#### 71, no:\n#### 72", "72", 1),  # the last one counts
        ("#### 72, no:\n#### 71", "72", 0),
        ("#### 1,234", "1234", 1),
        ("#### 1234", "She has 1,234.\n#### 1,234", 1),  # GSM8K's own answer as it is
        ("#### $72.00", "72", 1),
        ("####-3", "-3", 1),
        ("#### 72.", "72", 1),
        ("#### 0.5", ".5", 1),
        ("the answer is 72, or 71", "72", 0),
        ("####", "72", 0),
        ("#### x", 72, 0),
        ("", "72", 0),
        ("#### .5", "0.5", 1),
        ("#### .5", "5", 0),
        ("#### 3/4", "0.75", 1),
        ("#### 3/4", "3", 0),
        ("#### 1e3", "1000", 1),
        ("#### 1e3", "1", 0),
        ("#### 1,2,3", "123", 0),
        ("#### 1,2,3", "1", 0),
        ("#### 12,34", "1234", 0),
        ("#### 1 234", "1234", 1),
        ("#### -$5", "-5", 1),
        ("#### $-5", "-5", 1),
        ("#### −5", "-5", 1),
        ("#### –5", "-5", 1),
        ("#### -5", "5", 0),
        (r"#### \boxed{72}", "72", 1),
        (r"#### $\boxed{72}$", "72", 1),
        ("#### **72**", "72", 1),
        ("#### `72`", "72", 1),
        (r"#### \$72", "72", 1),
        (r"#### \frac{3}{4}", "0.75", 1),
        ("#### ７２", "72", 1),
        ("#### 72\n\nThat is all.", "72", 1),
        ("#### 5 or 6", "5", 0),
        ("#### 5-6", "5", 0),
        ("#### 72 73", "7273", 0),
        ("<think>#### 71</think>#### 72", "72", 1),
        ("<think>#### 72", "72", 0),
        ("<think>#### 72</think>", "72", 0),
        ("Answer: 72", "72", 1),  # as the exam reads it
        ("The answer is #### 72", "72", 1),
        ("So, the answer is: #### 72.", "72", 1),
        ("Answer: #### 72 apples", "72", 1),
        ("Answer:\n#### 72", "72", 1),
        ("####\n72", "72", 1),
        ("####\n\nI give up at 72.", "72", 0),
        ("**#### 72**", "72", 1),
        ("`#### 72`", "72", 1),
        ("(#### 72)", "72", 1),
        ("> #### 72", "72", 1),
        ("\\#### 72", "72", 1),
        ("#### 72 ####", "72", 1),
        ("#### 71, no: #### 72", "72", 1),
        ("#### 72, no: #### 71", "72", 0),
        ("##### 72", "72", 0),
        ("#### 72 apples", "72", 1),
        ("#### 72 apples.", "72", 1),
        ("#### 72 apples", "71", 0),
        ("#### 72 (apples)", "72", 1),
        ("#### 72 \\text{ apples}", "72", 1),
        ("#### **72** apples", "72", 1),
        ("#### $72 per hour", "72", 1),
        ("#### 1,234 red and green apples", "1234", 1),
        ("#### 1/2 cup", "0.5", 1),
        ("#### 1 1/2 cups", "1.5", 1),
        ("#### 5 km/h", "5", 1),
        ("#### 72 apples", "#### 72 apples", 1),
        ("#### 72 *apples*", "72", 1),
        ("#### 72apples", "72", 1),
        ("#### 5km", "5", 1),
        ("#### 72個", "72", 1),
        ("#### 72 円", "72", 1),
        ("#### 72?", "72", 1),
        ("#### EUR 72", "72", 1),
        ("#### HK$72", "72", 1),
        ("#### Rs. 72", "72", 1),
        ("#### 3k", "3", 0),
        ("#### 3 bn", "3", 0),
        ("Answer: 72 apples", "72", 0),  # without the mark the words count
        ("#### 72 apples and 3 pears", "72", 0),
        ("#### 3 hours 20 minutes", "3", 0),
        ("#### 3 million", "3", 0),
        ("#### 3 dozen eggs", "3", 0),
        ("#### 72 or more", "72", 0),
        ("#### 5x", "5", 0),
        ("#### 5 x 3", "5", 0),
        ("#### 5:30", "5", 0),
        ("#### 72 or 71", "72", 0),
        ("#### between 3 and 4", "3", 0),
        ("#### between 3 and 4", "4", 0),
        ("#### €5", "5", 1),
        ("#### 5€", "5", 1),
        ("#### -€5", "-5", 1),
        ("#### €-5", "-5", 1),
        ("#### €5", "-5", 0),
        ("#### £1,234.50", "1234.5", 1),
        ("#### ￥72", "72", 1),
        ("#### ₹72", "72", 1),
        ("#### US$72", "72", 1),
        ("#### €18", "€18", 1),
        ("#### 18", "€18", 1),
        ("#### 81", "€18", 0),
        ("#### (72)", "72", 1),
        ("#### [72]", "72", 1),
        ("#### (72, 71)", "72", 0),
        ("#### = 72", "72", 1),
        ("＃＃＃＃ 72", "72", 1),
        ("#### x = 72", "72", 1),
        ("#### Total cost = $72", "72", 1),
        ("#### Total: 72", "72", 1),
        ("#### The answer is 72", "72", 1),
        ("#### 合計：72", "72", 1),
        ("#### about 72", "72", 1),
        ("#### ~72", "72", 1),
        ("#### ≈ $72", "72", 1),
        ("#### 8*9 = 72", "72", 1),
        ("#### $70 + $2 = $72", "72", 1),
        ("#### 2*36=<<2*36=72>>72", "72", 1),
        ("#### _72_", "72", 1),
        ("#### x = 72 or 71", "72", 0),
        ("#### x = 5, y = 72", "72", 0),
        ("#### x = -72", "72", 0),
        ("#### x >= 72", "72", 0),
        ("#### x != 72", "72", 0),
        ("#### 2x = 72", "72", 0),
        ("#### -x = 72", "72", 0),
        ("#### x + y = 72", "72", 0),
        ("#### log x = 72", "72", 0),
        ("#### half x = 72", "72", 0),
        ("#### not x = 72", "72", 0),
        ("#### the answer is not 72", "72", 0),
        ("#### about 72 or 73", "72", 0),
        ("#### about 72-75", "72", 0),
        ("#### about 3 million", "3", 0),
        ("#### 70 + 2 = 72 + 1 = 73", "72", 0),
        ("#### 72 = 8*9", "8", 0),
        ("#### Case x = 2\n\nThe answer is 5.", "2", 0),
    ],
)
def test_the_reward_is_the_exams_reading(solution: str, truth: Any, expected: float) -> None:
    assert gsm8k.reward("tests", solution, truth) == expected
    gold = gsm8k.gold_of(truth)
    assert gold is not None
    exam = equivalent(read_answer(solution)[0] or "", gold, "exactMatch")  # with the rule as judge
    assert exam == expected
    for reference in (gold, str(truth).rpartition("####")[2].strip()):  # as prepared, and as others may prepare it
        item = Item("1", "How many?", reference, "exactMatch", "Math")
        assert (hle.TASK.score(item, [solution]).verdict == "yes") == expected


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("#### 5 km", "5 km", True),
        ("#### 5 m", "5 km", False),
        ("#### 5", "5 km", False),
        ("#### 3 million", "3 million", True),
        ("#### 3 million", "3", False),
        ("#### 72 apples\nAnswer: 71", "72", False),
        ("#### 72 apples\nAnswer: 71", "72 apples", False),
        ("#### 2. The case of a square\nI do not know.", "2", False),  # a heading
        ("#### Step 2", "2", False),
        ("Answer: €5", "5", False),
    ],
)
def test_other_exams_keep_their_units(response: str, gold: str, right: bool) -> None:
    item = Item("1", "How far?", gold, "exactMatch", "Math")
    assert (hle.TASK.score(item, [response]).verdict == "yes") == right


@pytest.mark.parametrize(
    ("truth", "gold"),
    [
        ("72", "72"),
        (72, "72"),
        (72.0, "72"),
        ("72.0", "72"),
        ("$72", "72"),
        ("3/4", "0.75"),
        ("1/3", "1/3"),
        (r"\boxed{72}", "72"),
        ("1 000", "1000"),
        ("1,000", "1000"),
        ("So.\n#### $18", "18"),
        ("#### -$5", "-5"),
        ("€18", "18"),
        ("#### €18", "18"),
        ("#### 72 apples", "72"),
        ("72 apples", None),
        ("#### 72 or 71", None),
        ("−5", "-5"),
        ("many", None),
        ("1,2,3", None),
        ("", None),
        (None, None),
        ([72], None),
        ("nan", None),
        (float("inf"), None),
        (True, None),
        ("9" * 3000, None),
    ],
)
def test_a_gold_is_read_by_the_answers_rule(truth: Any, gold: str | None) -> None:
    assert gsm8k.gold_of(truth) == gold
    assert gsm8k.reward("tests", "#### 1", truth) == 0  # and never raises
    assert (gsm8k.check_gold(truth) is None) == (gold is not None)


@pytest.mark.parametrize(
    ("solution", "truth", "expected"),
    [
        ("Paris", "Paris", 1),
        (" paris.\n", "Paris", 1),
        ("ＰＡＲＩＳ", "Paris", 1),
        ("Paris, France", "Paris", 0),
        ("", "Paris", 0),
        ("72", 72.0, 1),
        ("72", "72.0", 1),
        ("72.0", 72, 1),
        ("73", 72.0, 0),
        ("x²", "x2", 0),
        ("x2", "x²", 0),
        ("x²", "x^2", 1),
        ("10²", "102", 0),
        ("Answer: 85", "Answer: 85", 1),
        ("Answer: 75", "Answer: 85", 0),
        ("<think>Rome? No.</think>Paris", "Paris", 1),
        ("<think>Paris", "Paris", 0),
        ("<think>Paris</think>", "Paris", 0),
        ("", "", 0),
        ("1 2", "12", 0),
        ("long " * 1000, "long " * 1000, 1),
        ("long " * 1000 + "x", "long " * 1000, 0),
    ],
)
def test_exact_match(solution: str, truth: Any, expected: float) -> None:
    assert exact_match.reward("tests", solution, truth) == expected


@pytest.mark.skipif(not OFFICIAL.exists(), reason=f"there is no {OFFICIAL}")
def test_official_verdicts_on_the_answers_of_four_models() -> None:
    """They end in `A: 72`, where GSM8K's format has `#### 72`; the official verdict compares texts."""
    rows = [json.loads(line) for line in gzip.decompress(OFFICIAL.read_bytes()).splitlines()]
    wrong = []
    for row in rows:
        gold = row["ground_truth"].replace("\nA: ", "\n#### ")
        assert gsm8k.check_gold(gold) is None
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            solution = row[model]["solution"].replace("\nA: ", "\n#### ")
            if bool(gsm8k.reward("tests", solution, gold)) != row[model]["is_correct"]:
                wrong.append((row[model]["solution"][-60:], gold[-20:], row[model]["is_correct"]))
    assert len(rows) == 1319 and not wrong, wrong[:10]


def test_the_exam_asks_as_the_training_does_and_judges_as_it_rewards() -> None:
    first, second = gsm8k.TASK.items([ROWS[0], ROWS[1] | {"id": 7}])
    problem = gsm8k.Problem.read(ROWS[0])
    assert gsm8k.TASK.messages(first, "") == problem.prompt()
    assert (first.answer, second.answer, second.id) == ("4", "1234", "7")
    assert first.id == digest(problem.question), "as jobs.prepare has it in exam.jsonl"
    for response in ("#### 4", "#### 4 apples", "Answer: 4", "#### 5", "", "<think>#### 4"):
        verdict = gsm8k.TASK.score(first, [response]).verdict
        assert float(verdict == "yes") == gsm8k.reward("", response, ROWS[0]["answer"])
    with pytest.raises(ValueError, match="row 2: it has no text answer"):
        gsm8k.TASK.items([ROWS[0], {"question": "?"}])
