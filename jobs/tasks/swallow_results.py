"""The 107 results of the Swallow suite's aggregated_results.json: their names, their order and the figure of each.

A result is a score of one task, of a group of its subjects, or the mean of several scores; `MISSING` where there is
none. Scores are 0 to 1, BLEU 0 to 100.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MISSING = -1
MATCH = ("extractive_match",)
MMLU_GROUPS = ("stem", "humanities", "social_sciences", "other")
JMMLU_GROUPS = ("social_sciences", "humanities", "stem", "other")
MMLU_PRO_GROUPS = (
    *("business", "law", "psychology", "biology", "chemistry", "history", "other", "health", "economics", "math"),
    *("physics", "computer_science", "philosophy", "engineering"),
)
MT_BENCH_CATEGORIES = ("coding", "extraction", "humanities", "math", "reasoning", "roleplay", "stem", "writing")
MT_BENCH_TURNS = {
    "first_turn": "judge_score_overall_turn_1_avg",
    "second_turn": "judge_score_overall_turn_2_avg",
    "average": "judge_score_overall_avg",
}
MIFEVAL = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")


@dataclass(frozen=True, slots=True)
class Result:
    """One of the 107: what it is called there, and where its figure is in ours."""

    name: str
    task: str  # a task of this folder
    scores: tuple[str, ...]  # of several the mean
    group: str = ""  # of subjects, under `groups` in the figures; "": all of the task

    def value(self, figures: Mapping[str, Any] | None) -> float | int:
        """Out of the task's figures. `MISSING` where one of the scores is, or where the data lack a known subject."""
        if figures is None or any(of.get("n_total") == 0 for of in figures.get("categories", {}).values()):
            return MISSING
        holder = figures.get("groups", {}).get(self.group, {}) if self.group else figures
        values = [holder.get("scores", {}).get(score) for score in self.scores]
        found = [value for value in values if value is not None]
        return sum(found) / len(values) if len(found) == len(values) else MISSING


def micro_average(parts: Iterable[tuple[int, float] | None]) -> float | int:
    """The mean of what counts `n` times each, pairs of `n` and a value; None is left out, `MISSING` where all are."""
    present = [part for part in parts if part is not None]
    total = sum(n for n, _ in present)
    return sum(n * value for n, value in present) / total if total else MISSING


def aggregated(
    model: str, figures: Mapping[str, Mapping[str, Any]], custom_settings: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The content of aggregated_results.json out of the figures of each task, by the task's name.

    `model` has the provider before it, as in hosted_vllm/owner/name; `custom_settings` are path, name and version.
    """
    results = {result.name: result.value(figures.get(result.task)) for result in RESULTS}
    settings = dict.fromkeys(("path", "name", "version"), "") | dict(custom_settings or {})
    return {
        "model": model,
        "results": results,
        "overall": ",".join(map(str, results.values())),
        "tasks": list(results),
        "custom_settings": settings,
    }


def _grouped(name: str, task: str, groups: tuple[str, ...]) -> list[Result]:
    return [*(Result(f"{name}_{group}", task, MATCH, group) for group in groups), Result(name, task, MATCH)]


def _passes(name: str, task: str, score: str) -> list[Result]:
    return [Result(f"{name}_pass@{k}", task, (f"{score}@{k}:10",)) for k in (1, 10)]


def _mt_bench(name: str, task: str) -> list[Result]:
    of_categories = [
        Result(f"{name}_{category}", task, (f"judge_score_{category}_avg",)) for category in MT_BENCH_CATEGORIES
    ]
    return [*of_categories, *(Result(f"{name}_{turn}", task, (score,)) for turn, score in MT_BENCH_TURNS.items())]


def _japanese_ratios(name: str, task: str) -> list[Result]:
    shown = {category: category for category in MT_BENCH_CATEGORIES} | {"average": "overall"}
    return [Result(f"{name}_{of}_japanese_ratio", task, (f"japanese_ratio_{key}",)) for of, key in shown.items()]


RESULTS: tuple[Result, ...] = (
    *_grouped("jmmlu", "ja_mmlu", JMMLU_GROUPS),
    *_passes("jhumaneval", "ja_humaneval", "humaneval_pass"),
    *_grouped("mmlu_prox_japanese", "ja_mmlu_prox", MMLU_PRO_GROUPS),
    *_grouped("mmlu_prox_english", "en_mmlu_prox", MMLU_PRO_GROUPS),
    *_grouped("mmlu_pro_english", "en_mmlu_pro", MMLU_PRO_GROUPS),
    *_grouped("mmlu_english", "en_mmlu", MMLU_GROUPS),
    *_mt_bench("japanese_mtbench", "ja_mtbench"),
    *_japanese_ratios("japanese_mtbench", "ja_mtbench"),
    *_mt_bench("english_mtbench", "en_mtbench"),
    *(Result(f"jemhopqa_cot_{score}", "ja_jemhopqa_cot", (score,)) for score in ("f1_score_quasi", "f1_score")),
    *(Result(f"wmt20_en_ja_{score}", "ja_wmt20_en_ja", (score,)) for score in ("bleu", "bleu_lmevalja")),
    Result("wmt20_ja_en_bleu", "ja_wmt20_ja_en", ("bleu",)),
    Result("mifeval_ja_inst_level_strict_acc", "ja_mifeval", ("inst_level_strict_acc",)),
    Result("mifeval_ja_average", "ja_mifeval", MIFEVAL),
    Result("mclm_math_100_japanese", "ja_math_100", MATCH),
    Result("gpqa_main_ja", "ja_gpqa", MATCH),
    Result("swallow_hellaswag", "en_hellaswag", MATCH),
    Result("gpqa_diamond", "en_gpqa_diamond", MATCH),
    Result("math_500", "en_math_500", MATCH),
    Result("aime_2024_2025", "en_aime_2024_2025", MATCH),
    *_passes("livecodebench_v5_v6", "en_livecodebench_v5_v6", "codegen_pass"),
    *_passes("humaneval", "en_humaneval", "humaneval_pass"),
    *_passes("humanevalplus", "en_humanevalplus", "humaneval_pass"),
)
