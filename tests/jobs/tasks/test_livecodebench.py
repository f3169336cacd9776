"""LiveCodeBench: packed tests, programs and functions run on them, how outputs are compared."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from jobs.tasks import livecodebench_tests
from jobs.tasks.en_livecodebench_v5_v6 import TASK, extracted
from jobs.tasks.livecodebench_tests import Case, grade, same_output, same_result, unpack

FEW_SHOT = Path(__file__).parents[4] / "shared" / "data" / "livecodebench"
ADD = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}, {"input": "2 3\n", "output": "5", "testtype": "stdin"}]
CALL = [{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]


def packed(tests: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


STDIN_ROW = {
    "question_id": "own_a",
    "question_content": "Print the sum of two numbers.",
    "starter_code": "",
    "public_test_cases": json.dumps(ADD[:1]),
    "private_test_cases": packed(ADD[1:]),
    "metadata": "{}",
    "difficulty": "easy",
}
CALL_ROW = STDIN_ROW | {
    "question_id": "own_b",
    "question_content": "Add k to every number.",
    "starter_code": "class Solution:\n    def shift(self, a: List[int], k: int) -> List[int]:\n        ",
    "public_test_cases": json.dumps(CALL),
    "private_test_cases": packed(CALL),
    "metadata": '{"func_name": "shift"}',
}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench_tests, "SECONDS", 20.0)  # on a machine that may be busy


def end_of(row: dict[str, str], code: str) -> str:
    (item,) = TASK.items([row])
    verdict = TASK.score(item, [f"```python\n{code}\n```"])
    assert verdict.scores and verdict.scores["codegen_pass"] == float(verdict.verdict == "yes")
    return "passed" if verdict.verdict == "yes" else verdict.reasoning.rpartition(": ")[2]


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", "passed"),
        ("a, b = map(float, input().split())\nprint(a + b)", "passed"),
        ("a, b = map(int, input().split())\nprint(a + b, '  ')\nprint()", "passed"),
        ("def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()", "passed"),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", "passed"),
        ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", "passed"),  # which the original fails
        ("print(sum(map(int, open(0).read().split())))", "passed"),
        (
            "import threading\nt = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()",
            "passed",
        ),
        ("print(sum(map(int, input().split())))\nexit()", "passed"),
        ("from __future__ import annotations\nprint(sum(map(int, input().split())))", "passed"),
        ("print(sum(map(int, stdin.readline().split())))", "passed"),  # a name of the star imports
        ("def f(n): return 0 if n == 0 else 1 + f(n - 1)\nf(20000)\nprint(sum(map(int, input().split())))", "passed"),
        ("print(5)", "wrong"),
        ("print(3)", "wrong"),  # right for the first test
        ("print(input())\n1 / 0", "runtime error"),
        ("raise SystemExit(1)", "runtime error"),
        ("import os\nos._exit(0)", "wrong"),
        ("while True: print('x' * 1000)", "wrong"),
        ("print('passed')", "wrong"),
    ],
)
def test_programs(code: str, end: str) -> None:
    assert end_of(STDIN_ROW, code) == end


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("class Solution:\n    def shift(self, a: List[int], k: int):\n        return [x + k for x in a]", "passed"),
        ("def shift(a, k):\n    return [x + k for x in a]", "passed"),
        ("class Solution:\n    def shift(self, a, k):\n        return tuple(x + k for x in a)", "passed"),
        ("class Solution:\n    pass\ndef shift(a, k):\n    return [x + k for x in a]", "passed"),
        ("def shift(a, k):\n    print('[4, 5]')\n    return a", "wrong"),
        ("def shift(a, k):\n    return {x + k for x in a}", "runtime error"),
        ("def other(a, k):\n    return [4, 5]", "runtime error"),
        ("import os\nprint('[4, 5]', flush=True)\nos._exit(0)", "wrong"),
    ],
)
def test_functions(code: str, end: str) -> None:
    assert end_of(CALL_ROW, code) == end


def test_a_program_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench_tests, "SECONDS", 1.0)
    report = grade("while True: pass", [Case("", "")] * 3, "")
    assert (report.passed, report.end) == (0, "timeout")


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("5\n", "5", True),
        ("5", "5.0", True),
        (" 5 \n\n", "5", True),
        ("1 2 3", "1  2.0 3", True),
        ("0.1", "0.10", True),
        ("0.1", "0.1000001", False),
        ("yes", "Yes", False),
        ("a b", "a  b", False),  # words are compared as they stand
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("1 \n 2", "1\n2", True),
        ("nan", "nan", True),
        ("sNaN 1", "sNaN 2", False),
        ("1e999999999", "1", False),
        ("", "", True),
        ("", "5", False),
    ],
)
def test_outputs(found: str, expected: str, same: bool) -> None:
    assert same_output(found, expected) == same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("[1, 2]", "[1,2]", True),
        ("5.0", "5", True),
        ('"a"', '"a"', True),
        ("", "5", False),
        ("[" * 100000, "5", False),
        ("null", "null", True),
    ],
)
def test_results(found: str, expected: str, same: bool) -> None:
    assert same_result(found, expected) == same


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("```python\na = 1\n```\nor\n```python\nb = 1\n```", "b = 1\n"),
        ("print(input())", "print(input())"),
        ("```python\nprint(1)", "print(1)\n"),
        ("I am sorry, I cannot solve this.", ""),
        ("", ""),
        ("```\n```", ""),
        ("<think>```\na = 1\n```", ""),
        ("First we read the", ""),
    ],
)
def test_the_code_of_a_response(response: str, code: str) -> None:
    assert extracted(response).strip() == code.strip()
    (item,) = TASK.items([STDIN_ROW])
    if not code:
        verdict = TASK.score(item, [response])
        assert (verdict.verdict, verdict.extracted_answer, verdict.scores) == ("no", None, {"codegen_pass": 0.0})


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not base64!", "cannot be unpacked"),
        (base64.b64encode(b"not zlib").decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-6]).decode(), "is cut short"),
        (base64.b64encode(zlib.compress(b"not a pickle")).decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode(), "print, expected text alone"),
        (base64.b64encode(zlib.compress(pickle.dumps([1]))).decode(), "holds a list, expected text"),
        (packed([{"input": "1"}]), "is not a list of tests with input and output"),
        ('[{"input": 1, "output": "2"}]', "input is a int"),
        ("[", "Expecting value"),
    ],
)
def test_tests_that_cannot_be_unpacked(text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=told):
        unpack(text)
    with pytest.raises(ValueError, match=r"row 1 \(question_id 'own_a'\): private_test_cases "):
        TASK.items([STDIN_ROW | {"private_test_cases": text}])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metadata": "{"}, "metadata is not a JSON object"),
        ({"metadata": '{"func_name": 1}'}, "func_name in metadata is a int"),
        ({"question_content": None}, "question_content is null"),
    ],
)
def test_rows_that_do_not_fit(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"row 1 \(question_id 'own_a'\): {told}"):
        TASK.items([STDIN_ROW | change])


def test_what_is_asked() -> None:
    program, function = TASK.items([STDIN_ROW, CALL_ROW])
    assert "Print the sum of two numbers." in program.question and "standard input" in program.question
    assert "Add k to every number." in function.question and CALL_ROW["starter_code"] in function.question
    assert "{" not in program.question + function.question
    assert (program.id, program.category, TASK.samples) == ("own_a", "easy", 10)
    assert TASK.sampling(program) == {"temperature": 0.6, "top_p": 0.95}
    assert pickle.loads(pickle.dumps(TASK)).name == TASK.name
    json.dumps(function.metadata)


TESTS = {
    ("func", 0): ("unequalTriplets", [Case("[4,4,2,4,3]", "3"), Case("[1,1,1,1,1]", "0")]),
    ("func", 1): ("appendCharacters", [Case('"coaching"\n"coding"', "4"), Case('"z"\n"abcde"', "5")]),
    ("stdin", 0): ("", [Case("2\n3\n3 5 6\n3 2 3\n3\n10 12 8\n7 5 4\n", "6\n7\n")]),
    ("stdin", 1): ("", [Case("11\n00000000008\n", "1"), Case("22\n0011223344556677889988\n", "2")]),
}


@pytest.mark.skipif(not FEW_SHOT.exists(), reason=f"there is no {FEW_SHOT}")
@pytest.mark.parametrize(("kind", "number"), TESTS)
def test_the_authors_own_examples(kind: str, number: int) -> None:
    example = json.loads((FEW_SHOT / f"few_shot_{kind}.json").read_text(encoding="utf-8"))[number]
    function, tests = TESTS[kind, number]
    assert grade(example["answer"], tests, function).end == "passed"
    assert grade(example["answer"], [*tests, Case(tests[0].input, "77")], function).end == "wrong"
