"""aggregated_results.json: the 107 names in their order, and what stands under each."""

import hashlib
import json
from typing import Any

import pytest

from jobs.tasks.swallow_results import MISSING, RESULTS, aggregated, micro_average

ORDER_SHA256 = "38879c01c3b28e2dd8eedded99aa7baf12136e54d178473671035579cff200ec"


def test_names_and_order_are_those_of_the_suite() -> None:
    names = [result.name for result in RESULTS]
    assert len(names) == len(set(names)) == 107
    assert hashlib.sha256(",".join(names).encode()).hexdigest() == ORDER_SHA256
    assert len({result.task for result in RESULTS}) == 21


@pytest.mark.parametrize(
    ("parts", "expected"),
    [([(100, 0.5), (300, 0.7)], 0.65), ([(100, 0.5), None], 0.5), ([None, None], MISSING), ([], MISSING)],
)
def test_a_micro_average(parts: list[tuple[int, float] | None], expected: float) -> None:
    assert micro_average(parts) == pytest.approx(expected)


def scores(**values: float) -> dict[str, Any]:
    return {"scores": values}


def test_what_stands_under_a_name() -> None:
    figures: dict[str, Any] = {
        "ja_mmlu": scores(extractive_match=0.5) | {"groups": {"stem": scores(extractive_match=0.25)}},
        "en_mmlu": scores(extractive_match=0.5) | {"categories": {"anatomy": {"n_total": 0}}},
        "ja_humaneval": {"scores": {"humaneval_pass@1:10": 0.1, "humaneval_pass@10:10": 0.75}},
        "ja_mifeval": scores(
            prompt_level_strict_acc=0.5, inst_level_strict_acc=0.75, prompt_level_loose_acc=0.5, inst_level_loose_acc=1
        ),
        "ja_mtbench": scores(judge_score_math_avg=0.5, japanese_ratio_overall=0.9, judge_score_overall_turn_2_avg=0.2),
        "ja_wmt20_en_ja": scores(bleu=52.6),
    }
    found = aggregated("hosted_vllm/org/m", figures, {"name": "coding"})
    results = found["results"]
    assert {name: value for name, value in results.items() if value != MISSING} == {
        "jmmlu": 0.5,
        "jmmlu_stem": 0.25,
        "jhumaneval_pass@1": 0.1,
        "jhumaneval_pass@10": 0.75,
        "mifeval_ja_inst_level_strict_acc": 0.75,
        "mifeval_ja_average": 0.6875,
        "japanese_mtbench_math": 0.5,
        "japanese_mtbench_average_japanese_ratio": 0.9,
        "japanese_mtbench_second_turn": 0.2,
        "wmt20_en_ja_bleu": 52.6,
    }
    assert found["overall"].startswith("-1,-1,0.25,-1,0.5,0.1,0.75,-1,") and found["overall"].count(",") == 106
    assert found["tasks"] == list(results) and found["model"] == "hosted_vllm/org/m"
    assert found["custom_settings"] == {"path": "", "name": "coding", "version": ""}
    assert list(json.loads(json.dumps(found, indent=2))) == ["model", "results", "overall", "tasks", "custom_settings"]
