"""The reinforcement learning job as a user gives it, with a reward of the user's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import run
from tests.support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("cluster")]

REWARD = """\
def digits(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    return sum(letter.isdigit() for letter in solution_str) / 4 + bonus
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    make_tiny_model(folder / "model")
    rows = [{"question": f"{number % 7}+{number % 3}=?", "answer": str(number % 7 + number % 3)} for number in range(9)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    return folder


def test_a_training_with_a_function_of_the_users_runs_to_its_end(data: Path) -> None:
    arguments = [
        f"model={data / 'model'}",
        f"train={data / 'train.jsonl'}",
        f"run={data / 'run'}",
        f"reward={data / 'reward.py'}:digits",
        "reward_arguments={bonus: 1}",
        "batch_size=4",
        "rollout.n=2",
        "rollout.max_prompt_length=48",
        "rollout.max_response_length=4",
    ]
    done = run("jobs.ppo", *arguments, "--json", timeout=800)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["step"] == 2
    assert result["first_score"] >= 1 and result["score"] >= 1  # the bonus arrived
    assert Path(result["checkpoint"], "actor").is_dir() and Path(result["checkpoint"], "critic").is_dir()
    wrong = run("jobs.ppo", *arguments, "algorithm=grpo", timeout=300)
    assert wrong.returncode == 2
    assert "algorithm.adv_estimator was gae" in wrong.stderr.strip().splitlines()[-1]
