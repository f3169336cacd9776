"""StructEval's text part: does a response hold a document of the asked format, with the asked contents?

Source: J. Yang et al. (2025), StructEval, arXiv:2505.20139; weights of its code since 2026: 0.2 for a document that
parses (`render_score`), 0.8 for the share of paths that are found (`key_validation_score`), rounded to two decimals.
Each figure is there as the formats are defined and, with `_compat`, as the original computes it. Rows without paths, as
in the competition's public_150.json, have `format_valid` only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jobs.tasks import answers, metrics
from jobs.tasks.json_files import json_list, storage
from jobs.tasks.rows import text_of
from jobs.tasks.structeval_formats import TYPES, parse, parse_original
from jobs.tasks.structeval_paths import has_path
from jobs.tasks.task import Exporter, Item, Results, Task, Verdict

RENDER_WEIGHT, KEYS_WEIGHT = 0.2, 0.8  # 0.4 and 0.6 in the original before 2026


def export_inference(folder: Path, results: Results) -> list[Path]:
    """Write `inference.json`, a list of task_id and generation with each id once, "" where there is no answer.

    One file a sample; the second is `inference_s1.json`. Raises StorageFailed.
    """
    names = ["inference", *(f"inference_s{sample}" for sample in range(1, results.samples))]
    paths = [folder / f"{name}.json" for name in names]
    seen: list[set[str]] = [set() for _ in paths]
    with storage(folder), ExitStack() as stack:
        files = [stack.enter_context(json_list(path)) for path in paths]
        for prediction, _ in results.answers():
            identity, sample = prediction["id"], prediction["sample"]
            if sample < results.samples and identity in results.items and identity not in seen[sample]:
                seen[sample].add(identity)
                files[sample]({"task_id": identity, "generation": prediction["response"] or ""})
        for write, ids in zip(files, seen, strict=True):
            for identity in results.items:
                if identity not in ids:
                    write({"task_id": identity, "generation": ""})
    return paths


class StructEval(Task):
    """The query as it is; the response's document is parsed and looked through."""

    name = "structeval"
    dataset = "TIGER-Lab/StructEval"
    columns = ("task_id", "task_name", "query", "output_type", "raw_output_metric", "rendering")
    exports = (Exporter(export_inference),)

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        """Those of the text part: rows with `rendering` are left out."""
        return [_item(row, number) for number, row in enumerate(rows, start=1) if row.get("rendering") is not True]

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the document parses and has every path; the scores have the shares."""
        told = item.metadata or {}
        kind, paths = told["output_type"], told["paths"]
        response = responses[-1]
        data, original = parse(kind, response), parse_original(kind, response)
        scores = {"format_valid": float(data is not None), "format_valid_compat": float(original is not None)}
        missed: list[str] = []
        if paths:
            missed = [path for path in paths if not has_path(data, path, single_is_list=kind == "XML")]
            found = sum(has_path(original, path) for path in paths)
            scores = _scores(data is not None, len(paths) - len(missed), len(paths))
            of_original = _scores(original is not None, found, len(paths))
            scores |= {f"{name}_compat": value for name, value in of_original.items()}
        right = data is not None and not missed
        told_why = f"lacks {', '.join(missed)[:200]}" if missed else "has all that was asked for"
        reasoning = told_why if data is not None else f"holds no {kind} that parses"
        stated = answers.without_thinking(response).strip() if data is not None else None
        return Verdict("yes" if right else "no", stated, reasoning, None, scores)

    def sampling(self, item: Item) -> dict[str, Any]:
        return {"temperature": 0.0}

    def reference_response(self, item: Item) -> str | None:
        """None: the data have paths, not documents."""
        return None

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        """With the scores' means by output type and by task name."""
        by_output_type: dict[str, _Means] = {}
        by_task_name: dict[str, _Means] = {}

        def passing() -> Iterator[metrics.Outcome]:
            for outcome in outcomes:
                if (item := items.get(outcome.id)) and outcome.scores:
                    kind = (item.metadata or {})["output_type"]
                    by_output_type.setdefault(kind, _Means()).add(outcome.scores)
                    by_task_name.setdefault(item.category, _Means()).add(outcome.scores)
                yield outcome

        figures = super().figures(items, samples, passing())
        groups = {"by_output_type": by_output_type, "by_task_name": by_task_name}
        return figures | {
            group: {name: means.figures() for name, means in sorted(of.items())} for group, of in groups.items()
        }


class _Means:
    """Means of the scores of one group of answers."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}

    def add(self, scores: Mapping[str, float]) -> None:
        self.count += 1
        for name, value in scores.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def figures(self) -> dict[str, float]:
        return {"count": self.count} | {f"average_{name}": value / self.count for name, value in self.sums.items()}


def _scores(rendered: bool, found: int, total: int) -> dict[str, float]:
    keys = found / total if rendered else 0.0
    final = round(RENDER_WEIGHT * rendered + KEYS_WEIGHT * keys, 2)
    return {"render_score": float(rendered), "key_validation_score": keys, "final_eval_score": final}


def _item(row: Mapping[str, Any], number: int) -> Item:
    where = f"row {number}"
    identity = text_of(row, "task_id", where, numbers=(int,))
    where += f" (task_id {identity!r})"
    kind = text_of(row, "output_type", where).upper()
    if kind not in TYPES:
        raise ValueError(f"{where}: output_type is {row['output_type']!r}, expected one of {', '.join(TYPES)}")
    paths = row.get("raw_output_metric") or []
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"{where}: raw_output_metric is not a list of paths, which are texts")
    metadata = {"output_type": kind, "paths": paths}
    return Item(
        identity, text_of(row, "query", where), "", category=text_of(row, "task_name", where), metadata=metadata
    )


TASK = StructEval()
