"""Reads files in HLE's official layouts, of any task: what `jobs.tasks.official_layout` writes."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jobs.tasks import answers
from jobs.tasks.task import Answer
from jobs.tasks.verdict_words import TAKES_YES_BACK, yes_or_no
from orchestrator.errors import SpecError
from orchestrator.records.types import Judgement, Prediction, Usage

Entry = dict[str, Any]
VERDICT = "judge_response"  # the field that makes a prediction's entry a judged one


class OfficialFile(NamedTuple):
    """Entries by question id, in the file's order, and how many came again under an id that was there already."""

    path: Path
    entries: dict[str, Entry]
    n_duplicates: int

    @property
    def is_judged(self) -> bool:
        return any(VERDICT in entry for entry in self.entries.values())

    def answers(self) -> Iterator[Answer]:
        """Each entry as our records, with the verdict on it where it has one."""
        for identity, entry in self.entries.items():
            yield _prediction(identity, entry), _judgement(identity, entry)


def read_official(path: Path, kind: Literal["judged", "predictions"]) -> OfficialFile:
    """A file of either layout. The last of several entries of one id counts, as for every reader of JSON.

    Raises SpecError for a file that is missing, no JSON, or not in the layout.
    """
    what = f"the {kind} file {path}"
    doubled: list[int] = []  # a number for each object; the outermost is finished last
    try:
        entries = json.loads(  # its bytes have no name, so that they are freed once they are text
            path.read_bytes(), object_pairs_hook=lambda pairs: _object(pairs, doubled), parse_int=_integer
        )
    except FileNotFoundError:
        raise SpecError(f"there is no {kind} file {path} (relative to {Path.cwd()})") from None
    except OSError as error:
        raise SpecError(f"cannot read {what}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(entries, dict):
        raise SpecError(f"{what} holds a {type(entries).__name__}, expected an object of id: entry")
    for identity, entry in entries.items():
        if not isinstance(entry, dict):
            raise SpecError(f"{what}: the entry {identity!r} is a {type(entry).__name__}, not an object")
    return OfficialFile(path, entries, doubled[-1])


def usage_of(value: Any) -> Usage | None:
    """Token counts of any server or file as integers; what is not a count is 0, and None means no usage at all."""
    if not isinstance(value, dict):
        return None
    prompt, completion = (_count(value.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _count(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value <= answers.LARGEST_CONFIDENCE else 0  # not-a-number too


def _integer(digits: str) -> float:
    """Python refuses integers of thousands of digits, for which a whole file need not be refused."""
    return int(digits) if len(digits) < 1000 else float(digits)


def _object(pairs: list[tuple[str, Any]], doubled: list[int]) -> Entry:
    values = dict(pairs)
    doubled.append(len(pairs) - len(values))
    if doubled[-1] and "correct" in values and any(values["correct"] != v for name, v in pairs if name == "correct"):
        values["correct"] = None  # two verdicts count as none
    return values


def _prediction(identity: str, entry: Mapping[str, Any]) -> Prediction:
    """What the schema does not have is None or empty. A response without a text is not an answer."""
    response = entry.get("response")
    text = response if isinstance(response, str) and response.strip() else None
    return Prediction(
        id=identity,
        sample=0,
        status="failed" if text is None else "ok",
        reason="empty" if text is None else None,
        detail=None,
        response=text,
        reasoning=None,
        finish_reason=None,
        usage=usage_of(entry.get("usage")),
        attempts=1,
        started_at="",
        seconds=0.0,
        model=str(entry.get("model", "unknown")),
        endpoint="",
        fingerprint="",
        spec="",
        prompt_sha256="",
    )


def _judgement(identity: str, entry: Mapping[str, Any]) -> Judgement | None:
    stated = entry.get(VERDICT)
    if not isinstance(stated, dict):
        return None
    failed = _error(stated) or _error(entry)
    answer, reasoning = stated.get("model_answer"), stated.get("reasoning")
    return Judgement(
        id=identity,
        sample=0,
        prediction="",
        verdict="unjudged" if failed else _verdict(stated.get("correct")),
        reason=failed,
        extracted_answer=None if answer is None else str(answer),
        reasoning=None if reasoning is None else str(reasoning),
        confidence=_confidence(stated.get("confidence")),
        judge={"model": "unknown", "prompt_sha256": "", "sampling": {}},
        usage=None,
        attempts=1,
    )


def _error(stated: Mapping[str, Any]) -> str | None:
    """What stands in a field such as `error` or `judge_error`: scripts that catch a failed call write a "no" beside."""
    errors = [value for name, value in stated.items() if "error" in name.lower() and value]
    return str(errors[0]) if errors else None


def _verdict(correct: Any) -> Literal["yes", "no", "unjudged"]:
    """yes or no as any judge's word is read; and, in the middle of a text that denies nothing, the word "yes".

    The official code takes any text with "yes" in it for right. What says neither, or both, is not a verdict:
    "unknown", "not sure" and "cannot tell" hold a "no" as letters only.
    """
    if word := yes_or_no(correct):
        return word
    text = correct.lower() if isinstance(correct, str) else ""
    words = re.findall(r"[^\W_]+", text)
    return "yes" if "yes" in words[1:] and words[0] != "yes" and not TAKES_YES_BACK.search(text) else "unjudged"


def _confidence(value: Any) -> int | None:
    """Integers as they are, as the official code takes them; other forms as a judge's reply is read."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= answers.LARGEST_CONFIDENCE:
        return value
    return answers.percent(value)
