"""Reward functions, called as verl's reward workers call them, and their failures in the run folder."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from jobs.ppo import RULES
from orchestrator.training.environment import FOLDER_VARIABLE
from orchestrator.training.folder import Journal, TrainingFolder
from orchestrator.training.trainer import rewards
from tests.support.scripted_server import ScriptedServer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingFolder:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return TrainingFolder(tmp_path)


def score(function: Any, solution: str, ground_truth: Any = "72", **arguments: Any) -> Any:
    asked = {"data_source": "tests", "solution_str": solution, "ground_truth": ground_truth, "extra_info": {}}
    return asyncio.run(function(**(asked | arguments)))


@pytest.mark.parametrize("reward", ["gsm8k", "exact_match"])
def test_a_rule_is_a_function_of_a_module(reward: str) -> None:
    path, name = RULES[reward].rsplit(":", 1)
    assert score(rewards.user_function, "#### 72" if reward == "gsm8k" else "72", path=path, name=name) == 1
    assert score(rewards.user_function, "#### 71" if reward == "gsm8k" else "71", path=path, name=name) == 0


def test_verl_awaits_them() -> None:
    functions = [rewards.user_function, rewards.judge]
    assert all(inspect.iscoroutinefunction(function) for function in functions)


def test_function_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None, weight=1):\n"
        "    return {'score': weight * len(solution_str), 'length': len(solution_str)}\n"
        "async def later(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return solution_str == ground_truth\n"
    )
    found = score(rewards.user_function, "four", path=str(path), arguments={"weight": 0.5})
    assert found == {"score": 2.0, "length": 4}
    assert score(rewards.user_function, "72", path=str(path), name="later") is True


def test_function_that_raises_is_reported_with_its_line(folder: TrainingFolder) -> None:
    path = folder.path / "raises.py"
    path.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return 1 + 'a'\n"
    )
    Journal(folder).total(10, 4)
    with pytest.raises(rewards.RewardFailed) as raised:
        score(rewards.user_function, "x" * 500, path=str(path))
    failure = folder.failure()
    assert failure and (failure.kind, failure.step, failure.message) == ("reward", 5, str(raised.value))
    assert f"compute_score of {path} raised TypeError: unsupported operand" in failure.message
    assert "at line 2 for data_source 'tests', solution 'xxx" in failure.message
    assert len(failure.message) < 600


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("return float('nan')", "nan", "returned nan for data_source"),
        ("return {'score': float('inf')}", "nan", "returned {'score': inf}"),
        ("return 'good'", "reward", "it returned 'good', expected a number"),
        ("return None", "reward", "it returned None, expected a number"),
        ("return {'points': 1}", "reward", "KeyError: 'score'"),
        ("return {'score': None}", "reward", "expected a number"),
        ("return (1, 2)", "reward", "it returned (1, 2), expected a number"),
        ("return 10 ** 400", "reward", "OverflowError"),
        ("return 1 + 2j", "reward", "expected a number"),
        ("import sys; sys.exit('no key')", "reward", "SystemExit no key at line 2 for data_source"),
        ("raise KeyboardInterrupt", "reward", "KeyboardInterrupt at line 2"),
        ("raise StopIteration", "reward", "StopIteration at line 2"),
        ("next(iter([]))", "reward", "StopIteration at line 2"),
        ("assert False", "reward", "AssertionError"),
        ("return compute_score(data_source, solution_str, ground_truth)", "reward", "RecursionError"),
    ],
)
def test_what_is_no_reward(folder: TrainingFolder, body: str, kind: str, words: str) -> None:
    path = folder.path / "odd.py"
    path.write_text(f"def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    {body}\n")
    rewards._load.cache_clear()
    with pytest.raises(rewards.RewardFailed):
        score(rewards.user_function, "72", path=str(path))
    failure = folder.failure()
    assert failure and failure.kind == kind and words in failure.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import none_such", "ModuleNotFoundError: No module named 'none_such' at line 1"),
        ("def compute_score(:\n", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit 3 at line 1"),
        ("async def compute_score(**_):\n    raise SystemExit(3)", "SystemExit 3 at line 2"),
        ("def compute_score(solution): return 1", "unexpected keyword argument"),
        ("compute_score = 1", "it has no function compute_score"),
    ],
)
def test_a_file_that_cannot_be_used(folder: TrainingFolder, text: str, words: str) -> None:
    path = folder.path / "broken.py"
    path.write_text(text)
    rewards._load.cache_clear()
    with pytest.raises(rewards.RewardFailed) as raised:
        score(rewards.user_function, "72", path=str(path))
    assert words in str(raised.value)
    assert folder.failure()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("import numpy; return numpy.float32(0.5)", 0.5),
        ("import numpy; return numpy.array([1.0])", 1.0),
        ("import torch; return torch.tensor(0.5)", 0.5),
        ("import decimal; return decimal.Decimal('0.5')", 0.5),
        ("import fractions; return {'score': fractions.Fraction(1, 2), 'more': 1}", {"score": 0.5, "more": 1}),
    ],
)
def test_every_kind_of_number_is_one_that_verl_stores(folder: TrainingFolder, body: str, expected: Any) -> None:
    path = folder.path / "numbers.py"
    path.write_text(f"def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    {body}\n")
    rewards._load.cache_clear()
    found = score(rewards.user_function, "72", path=str(path))
    assert found == expected
    number = found["score"] if isinstance(found, dict) else found
    assert type(number) in (int, float)


def test_missing_file_and_missing_function(folder: TrainingFolder) -> None:
    path = folder.path / "mine.py"
    with pytest.raises(rewards.RewardFailed, match="there is no file"):
        score(rewards.user_function, "72", path=str(path))
    path.write_text("def other(): ...\n")
    with pytest.raises(rewards.RewardFailed, match="it has no function compute_score; it has other"):
        score(rewards.user_function, "72", path=str(path))


def verdict(prompt: str) -> str:
    """The scripted judge: right where the response holds the correct answer."""
    response, correct = prompt.split("Response: ")[1].split("\n\nCorrect answer: ")
    if "mumble" in response:
        return "I cannot say."
    return f"I compare.\n**score: {int(correct.splitlines()[0] in response)}**"


def test_judge() -> None:
    with ScriptedServer(answer=verdict) as server:
        asked = {"base_url": server.base_url, "model": "scripted"}
        assert score(rewards.judge, "It is {72}.", **asked) == {"score": 1.0, "judged": 1.0}
        rewards._judge_of.cache_clear()  # each asyncio.run is a new event loop
        assert score(rewards.judge, "It is 71 [500x2].", **asked) == {"score": 0.0, "judged": 1.0}
        rewards._judge_of.cache_clear()
        assert score(rewards.judge, "mumble", **asked) == {"score": 0.0, "judged": 0.0}
        assert server.requests()["total"] == 1 + 3 + 3


@pytest.mark.parametrize("behind", ["/", "/chat/completions", "/chat/completions/", "/models", " "])
def test_a_page_behind_the_judges_address_is_left_off(behind: str) -> None:
    with ScriptedServer(answer=verdict) as server:
        rewards._judge_of.cache_clear()
        found = score(rewards.judge, "It is 72.", base_url=f"{server.base_url}{behind}", model="scripted")
    assert found == {"score": 1.0, "judged": 1.0}


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://h:0/v1", "http://me:sesame@h/v1", "http://h/v1?key=sesame"]
)
def test_a_judges_address_that_is_none_is_reported_without_its_secrets(folder: TrainingFolder, url: str) -> None:
    with pytest.raises(rewards.RewardFailed, match="base_url"):
        score(rewards.judge, "72", base_url=url, model="scripted")
    failure = folder.failure()
    assert failure and "base_url" in failure.message and "sesame" not in failure.message


@pytest.mark.parametrize("said", ["score: 10", "score: -1", "underscore: 1", "score: 1 or 0"])
def test_a_number_out_of_range_is_asked_again_and_never_full_marks(said: str) -> None:
    with ScriptedServer(answer=lambda prompt: said) as server:
        rewards._judge_of.cache_clear()
        found = score(rewards.judge, "It is 72.", base_url=server.base_url, model="scripted")
        assert found == {"score": 0.0, "judged": 0.0}
        assert server.requests()["total"] == 3


def test_judge_that_is_never_readable_ends_the_training(folder: TrainingFolder) -> None:
    async def many(base_url: str) -> None:
        for number in range(rewards.MAX_UNREADABLE):
            await rewards.judge("tests", f"mumble {number}", "72", base_url=base_url, model="scripted")

    with ScriptedServer(answer=verdict) as server, pytest.raises(rewards.RewardFailed, match="I cannot say"):
        asyncio.run(many(server.base_url))
    failure = folder.failure()
    assert failure and failure.kind == "reward"


def test_judge_that_refuses_the_key_is_reported(folder: TrainingFolder) -> None:
    with ScriptedServer(api_key="secret") as server, pytest.raises(rewards.RewardFailed, match="401"):
        score(rewards.judge, "72", base_url=server.base_url, model="scripted")
    failure = folder.failure()
    assert failure and failure.kind == "other" and "it refuses us" in failure.message
