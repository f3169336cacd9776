"""The command line that all exam jobs share: `--config FILE key=value …`, `--dry-run`, `--json`."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.exam.requests import Requests, load_items
from jobs.exam.retired import retirement
from jobs.exam.spec import RULE_JUDGE, TEMPLATED, ExamSpec, judge_endpoint_spec, load_judge_prompt
from jobs.tasks.registry import find_task
from jobs.tasks.task import Item
from orchestrator.console import say
from orchestrator.endpoints.endpoint import Endpoint, EndpointSpec
from orchestrator.errors import EndpointDown, Parser, SpecError
from orchestrator.ray_cluster.find import find_path, known_gpus
from orchestrator.serving.spec import ServingSpec
from orchestrator.spec import load_spec, to_yaml

CHARACTERS_PER_TOKEN = 4  # of English text in current vocabularies; an estimate, and named as one
GOLDS_NAMED = 5  # ids of questions that are listed
GOLD_SECONDS = 10.0  # for checking golds; a rule that runs programs checks only the first ones


@dataclass(frozen=True)
class Command:
    """What the user asked for."""

    spec: ExamSpec
    items: list[Item]
    dry_run: bool
    as_json: bool


def parse(job: str, purpose: str, argv: Sequence[str] | None) -> Command:
    """Read the command line, the spec and the data, and check what needs no GPU to be checked: addresses, vLLM's
    options, the judge's prompt. Raises SpecError."""
    parser = Parser(prog=f"python -m jobs.{job}", description=purpose)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the spec, for example conf/hle.yaml")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the figures, or the whole dry run, as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the spec to change")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(ExamSpec, args.config, args.overrides)
    _check_task(spec)
    if job != "score":  # which asks no model and deploys nothing
        _check_deployments(spec)
        for without_effect in _without_effect(spec):
            say(without_effect)
    spec = _settle_judge(spec)
    return Command(spec, load_items(spec), args.dry_run, args.json)


def _check_task(spec: ExamSpec) -> None:
    """Raise SpecError for a task that cannot run as the spec asks."""
    task = find_task(spec.task)
    if task.turns > 1:
        raise SpecError(f"task={spec.task} asks {task.turns} turns for one answer; runs ask one")
    if not task.rule and (spec.judge == RULE_JUDGE or not (spec.judge or spec.judge_base_url)):
        raise SpecError(f"task={spec.task} has no rule: a model must judge its answers. Name it: judge=")


def _model_endpoint_spec(spec: ExamSpec) -> EndpointSpec:
    return EndpointSpec("model", spec.provider, spec.model, spec.base_url, spec.api_key_env)


def _check_deployments(spec: ExamSpec) -> None:
    """Raise SpecError for an invalid address, or for options that vLLM would refuse where it is deployed here."""
    _model_endpoint_spec(spec).endpoint()
    if spec.provider == "vllm":  # with an address too: where nothing listens there, it is deployed
        _check_vllm(spec.serving, "serving")
    wanted = judge_endpoint_spec(spec)
    if wanted and wanted.endpoint() is None:
        _check_vllm(spec.judge_serving, "judge_serving")


def _check_vllm(serving: ServingSpec, group: str) -> None:
    if serving.engine_kwargs or serving.reasoning_parser:
        from orchestrator.serving.check import check_options  # vLLM, seconds

        check_options(serving, group)


def _without_effect(spec: ExamSpec) -> Iterator[str]:
    """Keys that are given and do nothing with this provider, a sentence each."""
    if spec.provider in TEMPLATED:
        return
    if not spec.reasoning:
        yield (
            f"reasoning=false has no effect with provider={spec.provider}: its servers have no switch that all models "
            "share, so the model thinks as it does by itself. provider=compatible sends chat_template_kwargs"
        )
    if changed := sorted(spec.serving.model_fields_set & set(spec.serving.model_dump(exclude_defaults=True))):
        yield f"serving.{', serving.'.join(changed)} has no effect: with provider={spec.provider} nothing is deployed"


def _settle_judge(spec: ExamSpec) -> ExamSpec:
    """Name the judge that was left out, and check the prompt of one that is asked."""
    if spec.judge is None and spec.judge_base_url:
        from orchestrator.endpoints.discovery import only_model

        wanted = EndpointSpec("judge", spec.judge_kind, "", spec.judge_base_url, spec.judge_api_key_env)
        endpoint = wanted.endpoint()
        assert endpoint
        spec = spec.model_copy(update={"judge": only_model(endpoint, wanted.role)})
    elif spec.judge is None:
        spec = spec.model_copy(update={"judge": RULE_JUDGE})
    if spec.judge != RULE_JUDGE:
        load_judge_prompt(spec)
    elif spec.judge_base_url or spec.judge_prompt:
        raise SpecError("judge=rule asks no model, but judge_base_url or judge_prompt is given. Name the model: judge=")
    return spec


def describe(command: Command) -> str:
    """What `--dry-run` prints: the keys that differ from the defaults, the endpoints, the number of items, an estimate
    of tokens, and what is known to go wrong. With `--json` the same and all keys, as JSON."""
    spec, items = command.spec, command.items
    facts = _facts(spec, items)
    if command.as_json:
        return json.dumps({"spec": json.loads(spec.model_dump_json())} | facts, indent=2, ensure_ascii=False)
    most, per_question = facts["answer_tokens_at_most"], f"{len(items)} questions × {spec.samples}"
    answers = "what the context has left" if most is None else f"at most {most:,} tokens"
    return "\n".join(
        [
            to_yaml(spec, changed_only=True).rstrip(),
            "---",
            f"endpoint: {facts['endpoint']}",
            f"judge:    {facts['judge']}",
            f"items:    {per_question} = {facts['answers']} answers",
            f"tokens:   prompts about {facts['prompt_tokens']:,} (estimate, {CHARACTERS_PER_TOKEN} characters a token, "
            f"images not counted); answers {answers}",
            *(f"warning:  {warning}" for warning in facts["warnings"]),
        ]
    )


def _facts(spec: ExamSpec, items: list[Item]) -> dict[str, Any]:
    requests, answers, budget = Requests(spec), len(items) * spec.samples, spec.max_completion_tokens
    characters = sum(map(requests.prompt_characters, items)) * spec.samples
    return {
        "endpoint": _describe_endpoint(spec),
        "judge": f"{spec.judge}" + (f" at {spec.judge_base_url}" if spec.judge_base_url else ""),
        "questions": len(items),
        "answers": answers,
        "prompt_tokens": characters // CHARACTERS_PER_TOKEN,
        "answer_tokens_at_most": None if budget == "auto" else answers * budget,
        "warnings": [*_judge_warnings(spec), *_gold_warnings(spec, items)],
    }


def _judge_warnings(spec: ExamSpec) -> Iterator[str]:
    wanted = judge_endpoint_spec(spec)
    if wanted is None:
        return
    if wanted.provider == "openai" and (when := retirement(spec.judge)):
        tense = "is switched off" if "switched" in when else "will be switched off"
        yield f"judge={spec.judge} {tense}: {when}. Name another with judge=, or judge=rule"
    if missing := _missing_key(wanted.endpoint()):
        yield f"judge={spec.judge} requires a key, but {missing} is not set"


def _missing_key(endpoint: Endpoint | None) -> str | None:
    return endpoint.key_name if endpoint and endpoint.key_name and endpoint.api_key() is None else None


def _gold_warnings(spec: ExamSpec, items: list[Item]) -> Iterator[str]:
    """Golds that the rule does not find equal to themselves: no answer at all can be right there."""
    if spec.judge != RULE_JUDGE:
        return
    task = find_task(spec.task)
    deadline, lost, checked = time.monotonic() + GOLD_SECONDS, [], 0
    for item in items:
        if time.monotonic() > deadline:
            break
        response, checked = task.reference_response(item), checked + 1
        if response is not None and task.score(item, [response]).verdict == "no":
            lost.append(item.id)
    if lost:
        more = f" and {len(lost) - GOLDS_NAMED} others" if len(lost) > GOLDS_NAMED else ""
        yield (
            f"{len(lost)} of {checked} golds cannot be read by the rule, so no answer is right there: "
            f"{', '.join(lost[:GOLDS_NAMED])}{more}. A model as judge= can read them"
        )


def _describe_endpoint(spec: ExamSpec) -> str:
    """The endpoint that the job would use now: the one that answers, or the deployment that it would start."""
    from orchestrator.endpoints.discovery import Unreachable, check, is_this_host
    from orchestrator.serving import deploy

    endpoint = _model_endpoint_spec(spec).endpoint()
    deployment = f"would deploy {deploy.describe(spec.model, spec.serving, known_gpus())}"
    if endpoint is None:
        deploy.check_model(find_path(spec.model))
        return deployment
    try:
        found = check(endpoint, "model")
        return f"{found.model} at {found.base_url}, which answers"
    except Unreachable as error:
        here = spec.provider == "vllm" and is_this_host(endpoint.base_url)
        return f"nothing listens at {endpoint.base_url}: {deployment}" if here else str(error)
    except EndpointDown as error:
        return str(error)
