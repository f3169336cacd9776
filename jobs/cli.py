"""The command line that all exam jobs share: `--config FILE key=value …`, `--dry-run`, `--json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.exam import ExamSpec, Requests, load_items
from jobs.tasks import hle
from orchestrator.errors import Parser
from orchestrator.spec import load_spec, to_yaml

CHARACTERS_PER_TOKEN = 4  # of English text in current vocabularies; an estimate, and named as one


@dataclass(frozen=True)
class Command:
    """What the user asked for."""

    spec: ExamSpec
    items: list[hle.Item]
    dry_run: bool
    as_json: bool


def parse(job: str, purpose: str, argv: Sequence[str] | None) -> Command:
    """Read the command line, the spec and the data. Raises SpecError; argparse itself exits with 2."""
    parser = Parser(prog=f"python -m jobs.{job}", description=purpose)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the spec, for example conf/hle.yaml")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on standard output")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the spec to change")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(ExamSpec, args.config, args.overrides)
    return Command(spec, load_items(spec), args.dry_run, args.json)


def describe(command: Command) -> str:
    """What `--dry-run` prints: the resolved spec, the endpoints, the number of items and an estimate of tokens."""
    from orchestrator import serving  # imports Ray, which a wrong spec need not wait for
    from orchestrator.cluster import known_gpus

    spec, items = command.spec, command.items
    requests = Requests(spec)
    answers = len(items) * spec.samples
    prompt_tokens = sum(map(requests.prompt_characters, items)) * spec.samples // CHARACTERS_PER_TOKEN
    budget = spec.max_completion_tokens
    most = "what the context has left" if budget == "auto" else f"at most {answers * budget:,} tokens"
    endpoint = (
        serving.describe(spec.model, spec.serving, known_gpus())
        if spec.provider == "vllm" and not spec.base_url
        else f"{spec.model} at {spec.base_url or spec.provider}"
    )
    return "\n".join(
        [
            to_yaml(spec).rstrip(),
            "---",
            f"endpoint: {endpoint}",
            f"judge:    {spec.judge}" + (f" at {spec.judge_base_url}" if spec.judge_base_url else ""),
            f"items:    {len(items)} questions × {spec.samples} = {answers} answers",
            f"tokens:   prompts about {prompt_tokens:,} (estimate, {CHARACTERS_PER_TOKEN} characters a token, "
            f"images not counted); answers {most}",
        ]
    )
