"""The command line that all exam jobs share: `--config FILE key=value …`, `--dry-run`, `--json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.exam import RULE_JUDGE, ExamSpec, Requests, load_items, load_judge_prompt
from jobs.tasks import hle
from orchestrator.endpoint import Wish
from orchestrator.errors import EndpointDown, Parser, SpecError
from orchestrator.spec import load_spec, to_yaml
from orchestrator.state import known_gpus

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
    spec = _settle_judge(load_spec(ExamSpec, args.config, args.overrides))
    return Command(spec, load_items(spec), args.dry_run, args.json)


def _settle_judge(spec: ExamSpec) -> ExamSpec:
    """Name the judge that was left out, and check the prompt of one that is asked."""
    if spec.judge is None and spec.judge_base_url:
        from orchestrator.discovery import only_model

        wish = Wish("judge", spec.judge_kind, "", spec.judge_base_url, spec.judge_api_key_env)
        endpoint = wish.endpoint()
        assert endpoint
        spec = spec.model_copy(update={"judge": only_model(endpoint, wish.role)})
    elif spec.judge is None:
        spec = spec.model_copy(update={"judge": RULE_JUDGE})
    if spec.judge != RULE_JUDGE:
        load_judge_prompt(spec)
    elif spec.judge_base_url or spec.judge_prompt:
        raise SpecError("judge=rule asks no model, but judge_base_url or judge_prompt is given. Name the model: judge=")
    return spec


def describe(command: Command) -> str:
    """What `--dry-run` prints: the resolved spec, the endpoints, the number of items and an estimate of tokens."""
    spec, items = command.spec, command.items
    requests = Requests(spec)
    answers = len(items) * spec.samples
    prompt_tokens = sum(map(requests.prompt_characters, items)) * spec.samples // CHARACTERS_PER_TOKEN
    budget = spec.max_completion_tokens
    most = "what the context has left" if budget == "auto" else f"at most {answers * budget:,} tokens"
    return "\n".join(
        [
            to_yaml(spec).rstrip(),
            "---",
            f"endpoint: {_describe_endpoint(spec)}",
            f"judge:    {spec.judge}" + (f" at {spec.judge_base_url}" if spec.judge_base_url else ""),
            f"items:    {len(items)} questions × {spec.samples} = {answers} answers",
            f"tokens:   prompts about {prompt_tokens:,} (estimate, {CHARACTERS_PER_TOKEN} characters a token, "
            f"images not counted); answers {most}",
        ]
    )


def _describe_endpoint(spec: ExamSpec) -> str:
    """The endpoint that the job would use now: the one that answers, or the deployment that it would start."""
    from orchestrator import serving  # imports Ray, which a wrong spec need not wait for
    from orchestrator.discovery import Unreachable, check, is_this_host

    endpoint = Wish("model", spec.provider, spec.model, spec.base_url, spec.api_key_env).endpoint()
    deployment = f"would deploy {serving.describe(spec.model, spec.serving, known_gpus())}"
    if endpoint is None:
        return deployment
    try:
        return f"{check(endpoint, 'model').model} at {endpoint.base_url}, which answers"
    except Unreachable as error:
        here = spec.provider == "vllm" and is_this_host(endpoint.base_url)
        return f"nothing listens at {endpoint.base_url}: {deployment}" if here else str(error)
    except EndpointDown as error:
        return str(error)
