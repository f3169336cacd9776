"""HumanEval and its kin: what is taken out of a response, grades right and as the original's, pass@k, and frauds."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from jobs.tasks import en_humaneval, en_humanevalplus, ja_humaneval, unit_test_program
from jobs.tasks.code_blocks import STAR_PRELUDE, TYPING_PRELUDE, defines, last_block, parsed, star_names
from jobs.tasks.human_eval import HumanEval
from jobs.tasks.metrics import Outcome, pass_at_k
from jobs.tasks.sandbox import ISOLATIONS, best_way
from jobs.tasks.task import Item
from jobs.tasks.unit_tests import grade

DATA = Path(__file__).parents[4] / "shared" / "data"
FILES = {"en_humaneval": "humaneval/HumanEval.jsonl.gz", "ja_humaneval": "jhumaneval/jhuman-eval.jsonl.gz"}
ROW = {
    "task_id": "Own/0",
    "prompt": 'def double(x: int) -> int:\n    """ Twice x.\n    >>> double(2)\n    4\n    """\n',
    "entry_point": "double",
    "canonical_solution": "    return x + x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
GOOD = "def double(x):\n    return x * 2\n"
SECONDS = 20.0  # for tests that end, on a machine that may be busy
BEST = ISOLATIONS.index(best_way().isolation)


def items_of(name: str) -> tuple[HumanEval, list[Item]]:
    path = DATA / FILES[name]
    if not path.exists():
        pytest.skip(f"there is no {path}")
    task: HumanEval = {"en_humaneval": en_humaneval, "ja_humaneval": ja_humaneval}[name].TASK
    return task, task.items([json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()])


def fenced(code: str) -> str:
    return f"```python\n{code}```"


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> HumanEval:
    monkeypatch.setattr(HumanEval, "seconds", SECONDS)
    return en_humaneval.TASK


@pytest.mark.parametrize(
    ("response", "block"),
    [
        ("", ""),
        ("I cannot do that.", ""),
        ("def double(x): return 2", ""),
        (fenced(GOOD), GOOD),
        (fenced(GOOD) + "\nAn example:\n" + fenced("print(double(2))\n"), GOOD),
        (fenced("a = 1\n") + "\n" + fenced("b = 1\n"), "b = 1\n"),
        (fenced(GOOD) + "\nBetter:\n" + fenced("def double(x): return x + x\n"), "def double(x): return x + x\n"),
        ("```python\n" + GOOD, GOOD),  # unclosed
        ("Here:\n\n- first:\n\n  ```\n  x = 1\n  ```\n", "x = 1\n"),  # in a list
        ("   ```\n   x = 1\n   ```\n", "x = 1\n"),
        ("~~~\nx = 1\n~~~", "x = 1\n"),
        ("    x = 1\n", ""),  # an indented block is not fenced
        ("`x = 1`", ""),
    ],
)
def test_the_block_that_counts(response: str, block: str) -> None:
    assert last_block(response, "double") == block


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("def f(): pass", True),
        ("async def f(): pass", True),
        ("f = lambda: 1", True),
        ("if True:\n    def f(): pass", True),
        ("try:\n    pass\nexcept ValueError:\n    def f(): pass", True),
        ("from math import sqrt as f", True),
        ("def g():\n    def f(): pass", False),
        ("def g():\n    f = 1", False),
        ("f()", False),
        ("", False),
    ],
)
def test_what_code_defines(code: str, answer: bool) -> None:
    tree = parsed(code)
    assert tree is not None and defines(tree, "f") == answer


@pytest.mark.parametrize(
    ("response", "right", "original", "answered"),
    [
        (fenced(GOOD), "yes", 1, True),
        (fenced("def double(x):\n    return x\n"), "no", 0, True),
        (fenced(GOOD) + "\n" + fenced("print(double(2))\n"), "yes", 1, True),
        ("```python\n" + GOOD, "yes", 1, True),
        ("  ```python\n" + GOOD + "```", "yes", 1, True),
        (fenced("import os\nos._exit(0)\n" + GOOD), "no", 0, True),
        (fenced("import sys\nsys.exit(0)\n" + GOOD), "no", 0, True),
        (fenced("def double(x: List[int]) -> Optional[int]:\n    return x * 2\n"), "yes", 1, True),
        (fenced("def double(x):\n    return int(sqrt(4)) * x\n"), "no", 1, True),  # the original's prelude has sqrt
        (fenced("from __future__ import annotations\n" + GOOD), "yes", 1, True),
        (fenced("def double(x):\n    return x * 2\n  oops\n"), "no", 0, True),
        (fenced("    return x * 2\n"), "no", 0, True),  # a body without its signature
        (fenced("def twice(x):\n    return x * 2\n"), "no", 0, True),
        ("", "no", 0, False),
        ("I cannot help with that.", "no", 0, False),
        ("To double a number, one has to", "no", 0, False),  # truncated
        ("<think>\n\n" + fenced(GOOD), "no", 1, False),  # a thought that never ended
        ("<think>\n\n" + fenced("def double(x): return 0\n") + "\n</think>\n\n" + fenced(GOOD), "yes", 1, True),
    ],
)
def test_grades(task: HumanEval, response: str, right: str, original: float, answered: bool) -> None:
    (item,) = task.items([ROW])
    verdict = task.score(item, [response])
    assert verdict.scores is not None
    assert (verdict.verdict, verdict.scores["humaneval_pass"]) == (right, original), verdict.reasoning
    assert (verdict.extracted_answer is not None) == answered
    assert verdict.scores.get("isolation", BEST) == BEST


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (GOOD, "passed"),
        ("def double(x): return 1", "failed"),
        ("def double(x): raise ValueError", "failed"),
        ("import os\nos._exit(0)\n" + GOOD, "died"),
        ("import sys\nsys.exit(0)\n" + GOOD, "died"),
        ("import os\ndef double(x): os._exit(0)", "died"),
        ("def double(x): raise SystemExit(0)", "died"),
        ("import os, signal\ndef double(x): os.kill(os.getpid(), 9)", "died"),
        ("import os\nfor n in range(3, 64):\n    try: os.close(n)\n    except OSError: pass\n" + GOOD, "died"),
        ("import os\nos.close(0); os.close(1); os.close(2)\n" + GOOD, "passed"),
        ("print('passed')\nimport os\nos.write(1, b'passed'); os.write(2, b'passed'); os._exit(0)", "died"),
        ("import os\nfor n in range(3, 64):\n    try: os.write(n, b'passed')\n    except OSError: pass\n", "failed"),
        # what passes where code and tests share a process
        ("class Yes(int):\n    def __eq__(self, other): return True\n    def __hash__(self): return 1\n"
         "def double(x): return Yes(7)", "failed"),
        ("class Yes:\n    def __eq__(self, other): return True\ndef double(x): return Yes()", "failed"),
        ("import builtins, sys\nbuiltins.AssertionError = type('E', (BaseException,), {})\n"
         "def double(x):\n    f = sys._getframe()\n    while f:\n        f.f_globals['check'] = lambda c: None\n"
         "        f = f.f_back\n    return 0", "failed"),
        ("import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'options' in o: print(o)\n"
         "def double(x): return 0", "failed"),
        ("class Evil:\n    def __reduce__(self): return (__import__('os')._exit, (0,))\n"
         "def double(x): return Evil()", "failed"),
        ("class Evil:\n    def __reduce__(self): return (print, ('passed',))\ndef double(x): return Evil()", "failed"),
        ("def double(x):\n    try:\n        return x * 2\n    finally:\n        print('noise' * 100000)", "passed"),
        ("import sys\nsys.setrecursionlimit(10 ** 6)\ndef double(x): return x * 2", "passed"),
        ("def double(x): return bytearray(2 ** 27)", "failed"),
    ],
)  # fmt: skip
def test_a_submission_cannot_say_that_it_passed(code: str, end: str) -> None:
    found = grade(code, ROW["test"], "double", SECONDS, TYPING_PRELUDE)
    assert (found.end, found.isolation) == (end, best_way().isolation), found.told


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "def double(x):\n    while True: pass",
        "def double(x):\n    import time\n    time.sleep(100)",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef double(x):\n    while True: pass",
    ],
)
def test_a_submission_that_does_not_end(code: str) -> None:
    assert grade(code, ROW["test"], "double", 1.0, TYPING_PRELUDE).end == "timeout"


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(): return {1: 2}.keys()", "assert candidate() == {1}"),
        ("import collections\ndef f(): return collections.Counter('aab')", "assert candidate() == {'a': 2, 'b': 1}"),
        ("import enum\nE = enum.IntEnum('E', 'a b')\ndef f(): return [E.b]", "assert candidate() == [2]"),
        (
            "def f(): return (1, [2.5, None], {'x': True}, {3})",
            "assert candidate() == (1, [2.5, None], {'x': True}, {3})",
        ),
        ("def f(): return 2 ** 5000", "assert candidate() == 2 ** 5000"),
        ("def f(): return float('nan')", "assert candidate() != candidate()"),
        ("def f(): return True", "assert candidate() is True"),
        ("def f(x, y=0): return x - y", "assert candidate(3, y=1) == 2"),
        ("def f(): raise IndexError('no')", "try: candidate()\n    except IndexError as e: assert str(e) == 'no'"),
        ("def g(x): return x + 1\ndef f(x): return x - 1", "assert candidate(g(5)) == 5"),
        ("import numpy\ndef f(): return numpy.int64(3)", "assert candidate() == 3"),
        ("def f(): return [0.1 + 0.2]", "import numpy as np\n    assert np.allclose(candidate(), [0.3])"),  # HumanEval+
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(1).x",
            "assert candidate() == 1",
        ),
    ],
)
def test_values_between_code_and_tests(code: str, test: str) -> None:
    found = grade(code, f"def check(candidate):\n    {test}\n", "f", SECONDS, STAR_PRELUDE)
    assert found.end == "passed", found.told


def test_the_tests_side_makes_plain_values_only() -> None:
    import io

    for value in (print, HumanEval, Path("/"), Exception("x")):
        with pytest.raises(pickle.UnpicklingError):
            unit_test_program.PlainUnpickler(io.BytesIO(pickle.dumps(value))).load()


@pytest.mark.parametrize(
    ("n", "right", "k", "expected"), [(10, 3, 1, 0.3), (10, 3, 10, 1), (10, 0, 10, 0), (5, 2, 3, 0.9)]
)
def test_pass_at_k(n: int, right: int, k: int, expected: float) -> None:
    assert pass_at_k(n, right, k) == pytest.approx(expected)


def test_figures_of_ten_samples() -> None:
    """Under the original's names, 0 to 1; what has no record counts as wrong."""
    task = ja_humaneval.TASK
    items = {name: Item(name, "?", "") for name in "ab"}
    outcomes = [
        Outcome("a", n, "ok", "yes" if n < 3 else "no", None, scores={"humaneval_pass": float(n < 5), "isolation": 2.0})
        for n in range(10)
    ]
    outcomes += [Outcome("b", n, "truncated", "no", None, scores={"humaneval_pass": 0.0}) for n in range(4)]
    figures: dict[str, Any] = task.figures(items, 10, outcomes)
    assert figures["scores"] == pytest.approx(
        {"humaneval_pass@1:10": 0.25, "humaneval_pass@10:10": 0.5, "pass@1": 0.15, "pass@10": 0.5}
    )
    assert (figures["code_execution"], figures["code_executions"]) == ("isolated", {"isolated": 10})
    assert (figures["accuracy"], figures["n_missing"]) == (15.0, 6)
    weaker = [*outcomes, Outcome("b", 4, "ok", "no", None, scores={"humaneval_pass": 0.0, "isolation": 0.0})]
    assert task.figures(items, 10, weaker)["code_execution"] == "limits-only"
    nothing = task.figures(items, 1, [])
    assert nothing["code_execution"] is None and "scores" not in nothing
    assert set(task.figures(items, 1, outcomes[:1])["scores"]) == {"humaneval_pass@1:1", "pass@1"}


def test_what_is_asked() -> None:
    for task in (en_humaneval.TASK, ja_humaneval.TASK, en_humanevalplus.TASK):
        (item,) = task.items([ROW])
        assert ROW["prompt"] in item.question and "{" not in item.question.replace(ROW["prompt"], "")
        assert task.messages(item, "") == [{"role": "user", "content": item.question}]
        assert task.sampling(item) == {"temperature": 0.2, "top_p": 0.95} and task.samples == 10
        assert pickle.loads(pickle.dumps(task)).name == task.name
    assert en_humanevalplus.TASK.seconds == 120


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test": None}, r"row 1 \(task_id 'Own/0'\): test is null, expected text"),
        ({"entry_point": "a b"}, "entry_point is 'a b', expected a function's name"),
        ({"task_id": ""}, "row 1: task_id is empty"),
    ],
)
def test_rows_that_do_not_fit(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        en_humaneval.TASK.items([ROW | change])


@pytest.mark.parametrize("name", FILES)
def test_empty_answers(name: str) -> None:
    """The star imports let two pass in the original, `median` and `add`; none is right."""
    task, items = items_of(name)
    verdicts = {item.id: task.score(item, [""]) for item in items}
    assert len(items) == 164 and not [one for one in verdicts.values() if one.verdict == "yes" or one.extracted_answer]
    passed = [identity.partition("/")[2] for identity, one in verdicts.items() if (one.scores or {})["humaneval_pass"]]
    assert passed == ["47", "53"]
    assert {"median", "add"} <= star_names()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "of", [slice(0, 164, 41), pytest.param(slice(None), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_canonical_solutions(name: str, of: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HumanEval, "seconds", SECONDS)
    task, items = items_of(name)
    verdicts = {item.id: task.score(item, [task.reference_response(item)]) for item in items[of]}
    wrong = {identity: one.reasoning for identity, one in verdicts.items() if one.verdict != "yes"}
    assert not wrong and all((one.scores or {})["humaneval_pass"] for one in verdicts.values())


def test_bodies_without_their_signature_are_wrong() -> None:
    task, items = items_of("en_humaneval")
    verdicts = [task.score(item, [f"```\n{item.answer}```"]) for item in items[:20]]
    assert not [one for one in verdicts if one.verdict == "yes" or (one.scores or {})["humaneval_pass"]]
