"""Every command in README, docs/tutorials and docs/how-to: what has a dry run gets one, the rest is parsed.

A fenced bash block is a list of commands. They run in this process, in a folder that has conf/, small files under the
names that the pages use, and the page's own blocks that have a file's name behind their language. A make target stands
for the commands that `make -n` prints.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cluster.files import REPOSITORY
from docs.generate import parser_of
from jobs import ENTRY_POINTS
from orchestrator.spec import load_spec

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("tutorials/*.md"))]
PAGES += sorted((REPOSITORY / "docs").glob("how-to/*.md"))

# What a page leaves to its reader, and what stands for it here.
PLACEHOLDERS = {
    "model=NAME": "model=org/name",
    "http://host:8000/v1": "http://127.0.0.1:9/v1",  # the discard port: nothing listens
    "https://host/v1": "http://127.0.0.1:9/v1",
    "--site mine": "--site slurm",
    "SITE=mine": "SITE=slurm",
}
DRY = {"evaluate", "predict", "judge", "score", "prefetch", "prepare", "sft", "ppo", "upload", "pipeline", "bench"}
EXAMS = {"evaluate", "predict", "judge", "score"}
QUESTION = {
    "id": "a",
    "question": "2 + 2?",
    "answer": "4",
    "answer_type": "exactMatch",
    "category": "Math",
    "image": "",
}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
ANSWER = {"model": "org/name", "response": "Answer: 4\nConfidence: 90%", "usage": USAGE}
VERDICT = {"correct_answer": "4", "model_answer": "4", "reasoning": "the same", "correct": "yes", "confidence": 90}
QWEN3_32B = {
    **{"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "dtype": "bfloat16", "hidden_size": 5120},
    **{"num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 25600},
    **{"tie_word_embeddings": False, "max_position_embeddings": 40960},
}


def commands(page: Path) -> Iterator[str]:
    """The command lines of a page's bash blocks, without comments."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield shlex.join(words)


FOUND = [(page.relative_to(REPOSITORY).as_posix(), line) for page in PAGES for line in commands(page)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder as the pages assume it, without a cluster, a key or the internet; the environment stays as it was."""
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "kosen"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER", "OPENAI_API_KEY", "MAKEFLAGS", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("conf", "jobs", "Makefile"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    _write("questions.jsonl", QUESTION)
    _write("predictions.json", {"a": ANSWER})
    _write("judged.json", {"a": ANSWER | {"judge_response": VERDICT}})
    for model in ("Qwen/Qwen3-32B", "runs/demo/model"):
        _write(f"{model}/config.json", QWEN3_32B)
    _write("runs/hle_Qwen3-8B/events.jsonl", {})
    _write("runs/bench_h200/spec.yaml", {})
    _write_model(Path("runs/sft_Qwen3-1.7B/exports/global_step_58"))
    with patch.dict(os.environ):
        yield


def _write(name: str, content: Any) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _write_model(folder: Path) -> None:
    """What jobs.upload takes for a model: its files, and weights of one number."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        _write(f"{folder}/{name}", {"model_type": "qwen3"})
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def write_files(page: Path) -> None:
    """The files that a page shows: ```python my_task.py."""
    shown = re.findall(r"^```\w+ (\S+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for name, text in shown:
        Path(name).write_text(text, encoding="utf-8")


def test_the_pages_have_commands() -> None:
    assert len(FOUND) > 50
    assert {page for page, _ in FOUND} >= {"README.md", "docs/tutorials/slurm.md", "docs/how-to/train.md"}


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page}: {line}" for page, line in FOUND])
def test_a_command_of_the_docs_works(page: str, line: str) -> None:
    write_files(REPOSITORY / page)
    for name, here in PLACEHOLDERS.items():
        line = line.replace(name, here)
    check(shlex.split(line))


def test_the_plan_that_is_shown_is_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs/how-to/parallelism.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    check(["python", "-m", "orchestrator.plan", "--model", "Qwen/Qwen3-32B", "--gpus", "16", "--gpu", "h100"])
    assert [capsys.readouterr().out] == shown


def check(words: Sequence[str]) -> None:
    """Dry-run a command, or parse it where it has no dry run."""
    if words[0] == "eval":  # eval "$(command)"
        check(shlex.split(words[1].removeprefix("$(").removesuffix(")")))
    elif words[0] == "make":
        for recipe in _recipes(words):
            check(recipe)
    elif list(words[1:2]) == ["-m"]:
        _check_module(words[2], list(words[3:]))
    else:
        _check_program(words)


def _recipes(words: Sequence[str]) -> Iterator[list[str]]:
    """The commands of ours that a target would run."""
    printed = subprocess.run([*words, "-n"], capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    for line in printed.stdout.splitlines():
        recipe = shlex.split(re.sub(r"\$\(.*?\)", "now", line))
        if ".venv/bin/python" in recipe:
            yield recipe[recipe.index(".venv/bin/python") :]


def _check_module(module: str, arguments: list[str]) -> None:
    if module == "orchestrator.submit" and arguments[:1] == ["submit"]:  # checked as the job that it would submit
        _check_module(f"jobs.{arguments[1]}", arguments[2:])
    elif module == "orchestrator.plan":
        assert _main(module)(arguments) == 0
    elif module == "cluster":
        _check_cluster(arguments)
    elif module.startswith("jobs."):
        _check_job(module.removeprefix("jobs."), arguments)
    else:
        parser_of(_main(module), arguments).parse_args(arguments)


def _main(module: str) -> Any:
    folder = (REPOSITORY / module.replace(".", "/")).is_dir()
    return importlib.import_module(f"{module}.__main__" if folder else module).main


def _check_cluster(arguments: list[str]) -> None:
    ours, _, theirs = _split(arguments)
    if ours[0] in ("up", "run", "preflight") and "--heal" not in ours:
        given = [*ours, *(["--dry-run"] if "--dry-run" not in ours else [])]
        assert _main("cluster")([*given, *(["--", *theirs] if theirs else [])]) == 0
    else:
        parser_of(_main("cluster"), ours).parse_args(ours)
    if theirs:
        check(theirs)


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], "--", arguments[place + 1 :]


def _check_job(job: str, arguments: list[str]) -> None:
    assert job in ENTRY_POINTS
    main = _main(f"jobs.{job}")
    if job not in DRY or (job == "bench" and arguments[:1] == ["report"]):
        _parse(job, main, arguments)
        return
    names_data = {"--judged", "--predictions", "task", "dataset"} & {word.partition("=")[0] for word in arguments}
    if job in EXAMS and not names_data:  # the hub's data cannot be reached
        arguments = [*arguments, "dataset=questions.jsonl"]
    dry = [] if "--judged" in arguments or "--dry-run" in arguments else ["--dry-run"]
    assert main([*arguments, *dry]) == 0


def _parse(job: str, main: Any, arguments: list[str]) -> None:
    """What has no dry run: its arguments, and its keys."""
    parser = parser_of(main, arguments)
    if job == "merge":
        found = parser.parse_intermixed_args(arguments)
        load_spec(importlib.import_module("jobs.merge").MergeSpec, found.config, found.overrides)
    else:
        parser.parse_args(arguments[arguments[:1] == ["report"] :])


def _check_program(words: Sequence[str]) -> None:
    program = words[0]
    assert shutil.which(program) or (REPOSITORY / ".venv" / "bin" / program).exists(), f"there is no program {program}"
    if program == "cp":
        assert (REPOSITORY / words[1]).exists()
    if "--" in words and "-m" in words:
        check(words[words.index("--") + 1 :])
