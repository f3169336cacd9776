"""What servers refuse of requests, in their own sentences, and what is asked instead."""

# ruff: noqa: E501 -- the sentences are kept whole

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from orchestrator.asking import retry
from orchestrator.asking.adapting import Change, adapt
from orchestrator.asking.client import ChatClient, RequestOutcome
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.endpoints.refusals import Refusal, read_refusal
from tests.support.odd_replies import completion
from tests.support.scripted_server import ScriptedServer

OPTIONS: dict[str, Any] = {
    "temperature": 0.0,
    "top_p": 0.9,
    "max_tokens": 99_999,
    "chat_template_kwargs": {"enable_thinking": False},
    "response_format": {"type": "json_schema", "json_schema": {"name": "verdict"}},
}
NEW_NAME = {"max_completion_tokens": 99_999}
SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}
PARTS = [{"type": "text", "text": "2 + 2?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
MERGED = "system prompt put before the question"
RENAMED = "max_tokens renamed to max_completion_tokens"


def openai(message: str, param: str | None = None, code: str | None = None) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def gemini(message: str) -> Any:
    return [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]


def pydantic(*where: str, said: str = "Extra inputs are not permitted") -> Any:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", *where], "msg": said, "input": 7}]}


REFUSALS: list[tuple[int, Any, list[str]]] = [
    (
        400,
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "max_tokens",
            "unsupported_parameter",
        ),
        [RENAMED],
    ),
    (400, openai("`max_tokens` unsupported"), [RENAMED]),
    (400, openai("This parameter is not supported with this model.", "max_tokens"), [RENAMED]),
    (422, pydantic("max_tokens"), [RENAMED]),
    (
        400,
        openai(
            "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported.",
            "temperature",
            "unsupported_value",
        ),
        ["temperature dropped"],
    ),
    (400, openai("temperature: is not supported by this model"), ["temperature dropped"]),
    (422, {"error": "`temperature` must be strictly positive", "error_type": "validation"}, ["temperature dropped"]),
    (400, openai("`temperature` and `top_p` cannot both be specified for this model."), ["top_p dropped"]),
    (400, openai("`temperature` is deprecated for this model."), ["temperature dropped"]),
    (400, openai("Model does not support parameters top_p."), ["top_p dropped"]),
    (400, openai("Unrecognized request argument supplied: chat_template_kwargs"), ["chat_template_kwargs dropped"]),
    (
        400,
        gemini('Invalid JSON payload received. Unknown name "chat_template_kwargs": Cannot find field.'),
        ["chat_template_kwargs dropped"],
    ),
    (422, pydantic("chat_template_kwargs"), ["chat_template_kwargs dropped"]),
    (
        422,
        {"object": "error", "message": pydantic("chat_template_kwargs"), "type": "invalid_request_error"},
        ["chat_template_kwargs dropped"],
    ),
    (
        400,
        openai("property 'chat_template_kwargs' is unsupported, did you mean 'tools'?"),
        ["chat_template_kwargs dropped"],
    ),
    (400, openai("Unknown parameter: 'enable_thinking'."), ["chat_template_kwargs dropped"]),
    (
        400,
        openai("Unknown parameter: 'chat_template_kwargs'. Supported parameters: temperature, top_p, max_tokens."),
        ["chat_template_kwargs dropped"],
    ),
    (
        400,
        openai("Additional properties are not allowed ('chat_template_kwargs', 'top_p' were unexpected)"),
        ["top_p dropped", "chat_template_kwargs dropped"],
    ),
    (400, openai("This model does not support response format `json_schema`."), ["response_format dropped"]),
    (400, openai("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."), ["response_format dropped"]),
    (400, openai("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"), ["max_tokens lowered to 8192"]),
    (422, openai("Range of max_tokens should be [1, 8192]"), ["max_tokens lowered to 8192"]),
    (
        400,
        openai("max_tokens is too large: 99999. This model supports at most 16384 completion tokens, whereas you provided 99999."),
        ["max_tokens lowered to 16384"],
    ),
    (
        400,
        openai("max_tokens: 99999 > 8192, which is the maximum allowed number of output tokens for m-3-5-20241022"),
        ["max_tokens lowered to 8192"],
    ),
    (400, openai("max_tokens must be less than or equal to 8,192"), ["max_tokens lowered to 8192"]),
    (400, openai("max_tokens is too large", "max_tokens"), ["max_tokens dropped"]),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5 `inputs` tokens and 99999 `max_new_tokens`"}, ["max_tokens dropped"]),
    (422, {"error": "inputs tokens + max_new_tokens must be <= 4096"}, ["max_tokens dropped"]),
    (
        400,
        openai("This model's maximum context length is 8192 tokens. However, you requested 100099 tokens (100 in the messages, 99999 in the completion)."),
        ["max_tokens dropped"],
    ),
    (
        400,
        {"object": "error", "message": "'max_tokens' or 'max_completion_tokens' is too large: 99999. This model's maximum context length is 40960 tokens and your request has 15 input tokens (99999 > 40960 - 15).", "code": 400},
        ["max_tokens dropped"],
    ),
    (400, openai("System role not supported"), [MERGED]),
    (500, {"detail": "System role not supported"}, [MERGED]),
    (500, b"Internal Server Error: jinja2.exceptions.TemplateError: System role not supported", [MERGED]),
    (400, gemini("Developer instruction is not enabled for models/gemma-3-27b-it"), [MERGED]),
    (400, openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages[0].role"), [MERGED]),
    (400, openai("Conversation roles must alternate user/assistant/user/assistant/..."), [MERGED]),
    (400, openai("After the optional system message, conversation roles must alternate user/assistant"), [MERGED]),
    (400, openai("Only user and assistant roles are supported!"), [MERGED]),
    (422, pydantic("messages", "0", "role", said="Input should be 'user' or 'assistant'"), [MERGED]),
    (400, openai("The role 'system' is not supported by this model"), [MERGED]),
    (400, openai("Invalid role: system messages are not allowed"), [MERGED]),
]  # fmt: skip

REFUSALS += [
    (400, openai("invalid params, temperature must be in (0.0, 1.0]"), ["temperature dropped"]),
    (400, openai("temperature must be greater than 0"), ["temperature dropped"]),
    (400, openai("参数 temperature 不支持"), ["temperature dropped"]),
    (400, openai("chat_template_kwargs はサポートされていません"), ["chat_template_kwargs dropped"]),
    (400, openai("This model only support stream mode, please enable the stream parameter."), ["asked for a stream"]),
    (400, openai("`max_tokens` must be between 1 and 8192"), ["max_tokens lowered to 8192"]),
    (400, openai("max_tokens参数非法：取值范围 [1, 8192]"), ["max_tokens lowered to 8192"]),
    (400, openai("max_tokens + prompt length exceeds the limit 32768"), ["max_tokens dropped"]),
    (400, openai("This response_format type is unavailable now"), ["response_format dropped"]),
    (400, openai("response_format.type must be one of text, json_object"), ["response_format dropped"]),
    (400, openai("invalid temperature: only 1 is allowed for this model"), ["temperature dropped"]),
    (400, openai("temperature: this model supports only 1"), ["temperature dropped"]),
    (400, openai("temperature is fixed at 1 for this model"), ["temperature dropped"]),
    (400, openai("Unpermitted parameter(s): chat_template_kwargs"), ["chat_template_kwargs dropped"]),
    (400, openai("The model does not accept system prompts"), [MERGED]),
    (400, openai("roles other than user and assistant are not supported, got system"), [MERGED]),
    (400, openai("Streaming is required for operations that may take longer than 10 minutes."), ["asked for a stream"]),
]

NOTHING_TO_DO: list[tuple[int, Any]] = [
    (400, openai("User location is not supported for the API use.")),
    (400, openai("The response was filtered due to the prompt triggering our content management policy.", "prompt")),
    (400, openai("Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.")),
    (400, openai("Unknown parameter: 'seed'.", "seed")),
    (400, openai("The model m does not exist")),
    (400, openai("Invalid image: unsupported format")),
    (403, openai("`temperature` is not supported")),
    (404, openai("`max_tokens` is not supported")),
    (429, openai("Request too large: max_tokens exceeds the limit of 6000 tokens per minute")),
    (500, openai("Internal server error")),
    (413, b"<html><title>413 Request Entity Too Large</title></html>"),
]


def refusal(status: int, body: Any) -> Refusal:
    return read_refusal(status, body if isinstance(body, bytes) else orjson.dumps(body))


def changes(status: int, body: Any, options: dict[str, Any] = OPTIONS) -> list[str]:
    made: list[Change] = []
    adapt({"model": "m", "messages": [SYSTEM, USER], **options}, refusal(status, body), made)
    return [str(change) for change in made]


@pytest.mark.parametrize(("status", "body", "made"), REFUSALS, ids=itertools.count())
def test_what_is_refused_is_not_asked_again(status: int, body: Any, made: list[str]) -> None:
    assert changes(status, body) == made


@pytest.mark.parametrize(("status", "body"), NOTHING_TO_DO)
def test_other_refusals_stand(status: int, body: Any) -> None:
    assert changes(status, body) == []


def test_only_what_was_asked_is_changed() -> None:
    for status, body, made in REFUSALS:
        assert changes(status, body, {}) == [words for words in made if words in (MERGED, "asked for a stream")]
    unknown = pydantic("max_completion_tokens")
    assert changes(422, unknown, NEW_NAME) == ["max_completion_tokens renamed to max_tokens"]


def test_the_changes_are_those_that_the_words_say() -> None:
    request = {"model": "m", "messages": [USER], "max_tokens": 9, "top_p": 1.0}
    assert Change("rename", "max_tokens", "max_completion_tokens").apply(request)
    assert Change("drop", "top_p").apply(request)
    assert not Change("lower", "max_completion_tokens", 10).apply(request)
    assert Change("lower", "max_completion_tokens", 5).apply(request)
    assert request == {"model": "m", "messages": [USER], "max_completion_tokens": 5}


@pytest.mark.parametrize(
    ("messages", "merged"),
    [
        ([SYSTEM, USER], [{"role": "user", "content": "Be brief.\n\n2 + 2?"}]),
        (
            [SYSTEM, {"role": "user", "content": PARTS}],
            [{"role": "user", "content": [{"type": "text", "text": "Be brief.\n\n"}, *PARTS]}],
        ),
        ([SYSTEM, USER, {"role": "assistant", "content": "4"}, USER], None),
    ],
)
def test_a_system_prompt_goes_before_the_first_question(messages: list[Any], merged: list[Any] | None) -> None:
    before = orjson.dumps(messages)
    request = {"messages": messages}
    assert Change("merge", "messages").apply(request)
    assert request["messages"] == (merged or [{"role": "user", "content": "Be brief.\n\n2 + 2?"}, *messages[2:]])
    assert orjson.dumps(messages) == before  # they belong to the question, which may be asked again
    assert not Change("merge", "messages").apply(request)


Body = dict[str, Any]


def ask_all(
    say: Callable[[Body], Any], number: int = 3, options: Body = OPTIONS
) -> tuple[list[RequestOutcome], list[Body]]:
    """Ask `number` questions, one after the other, at a server of its own; also the bodies that came."""
    bodies: list[Body] = []

    def answer(body: Body) -> tuple[int, bytes, str | None]:
        bodies.append(body)
        status, told = say(body)
        return status, told if isinstance(told, bytes) else orjson.dumps(told), None

    async def main(url: str) -> list[RequestOutcome]:
        client = ChatClient(Endpoint(url, "scripted"), window=2, request_timeout=20)
        try:
            return [await client.ask([SYSTEM, USER], options) for _ in range(number)]
        finally:
            await client.close()

    with ScriptedServer(say=answer) as server:
        return asyncio.run(main(server.base_url)), bodies


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in retry.CAP:
        monkeypatch.setitem(retry.CAP, reason, 0.02)


def picky(body: Body) -> tuple[int, Any]:
    """A reasoning model behind a gateway: it knows the new name of the budget, no temperature and no system role."""
    if "max_tokens" in body:
        return 400, openai("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens")
    if "temperature" in body:
        return 400, openai("Unsupported value: 'temperature' does not support 0.0 with this model.", "temperature")
    if any(message["role"] == "system" for message in body["messages"]):
        return 400, openai("'messages[0].role' does not support 'system' with this model.")
    return 200, completion("4", system_fingerprint="fp_1")


def test_what_was_learnt_once_is_not_paid_again() -> None:
    outcomes, bodies = ask_all(picky)
    assert [(outcome.status, outcome.attempts) for outcome in outcomes] == [("ok", 4), ("ok", 1), ("ok", 1)]
    assert {outcome.adapted for outcome in outcomes} == {(RENAMED, "temperature dropped", MERGED)}
    assert {outcome.system_fingerprint for outcome in outcomes} == {"fp_1"}
    assert len(bodies) == 6
    assert bodies[-1]["messages"] == [{"role": "user", "content": "Be brief.\n\n2 + 2?"}]
    assert bodies[-1]["max_completion_tokens"] == 99_999


def test_what_did_not_help_is_not_learnt() -> None:
    outcomes, bodies = ask_all(lambda _: (400, openai("System role not supported")), 2)
    assert [(outcome.status, outcome.reason, outcome.attempts) for outcome in outcomes] == [("failed", "4xx", 2)] * 2
    assert {outcome.detail for outcome in outcomes} == {"400 System role not supported"}
    assert bodies[2]["messages"][0] == SYSTEM


def test_a_budget_above_the_context_is_a_matter_of_one_prompt() -> None:
    def say(body: Body) -> tuple[int, Any]:
        told = {"object": "error", "code": 400, "message": "This model's maximum context length is 64 tokens."}
        return (200, told) if "max_tokens" in body else (200, completion("4"))  # an error in a 200, as some send it

    outcomes, _ = ask_all(say, 2)
    assert [(outcome.attempts, outcome.adapted) for outcome in outcomes] == [(2, ("max_tokens dropped",))] * 2


@pytest.mark.parametrize("most", [8192, None])
def test_a_budget_above_the_models_range_is_lowered_and_then_dropped(most: int | None) -> None:
    def say(body: Body) -> tuple[int, Any]:
        fits = body.get("max_tokens", 0) <= (most or 0)
        return (200, completion("4")) if fits else (422, openai("Range of max_tokens should be [1, 8192]"))

    outcomes, bodies = ask_all(say, 2)
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
    assert bodies[-1].get("max_tokens") == most
    assert outcomes[-1].attempts == 1


def test_a_server_that_knows_neither_name_is_asked_without_a_budget() -> None:
    def say(body: Body) -> tuple[int, Any]:
        unknown = [name for name in body if name.startswith("max_")]
        return (422, pydantic(unknown[0])) if unknown else (200, completion("4"))

    outcomes, bodies = ask_all(say, 2)
    assert [(outcome.status, outcome.attempts) for outcome in outcomes] == [("ok", 3), ("ok", 1)]
    assert outcomes[1].adapted == (RENAMED, "max_completion_tokens dropped")
    assert not any(name.startswith("max_") for name in bodies[-1])


def test_a_500_of_the_template_is_adapted_and_any_other_tried_again() -> None:
    count = itertools.count()

    def say(body: Body) -> tuple[int, Any]:
        if next(count) == 0:
            return 500, {"error": {"message": "oh"}}
        return (500, {"detail": "System role not supported"}) if len(body["messages"]) > 1 else (200, completion("4"))

    outcomes, _ = ask_all(say, 2)
    assert [(outcome.status, outcome.attempts) for outcome in outcomes] == [("ok", 3), ("ok", 1)]


def test_a_server_that_only_streams_is_read() -> None:
    def say(body: Body) -> tuple[int, Any]:
        told = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("Answer: ", "4")]
        lines = [f"data: {orjson.dumps(chunk).decode()}\n\n" for chunk in told] + ["data: [DONE]\n\n"]
        return (
            (200, "".join(lines).encode())
            if body.get("stream")
            else (400, openai("This model only supports stream=true"))
        )

    outcomes, _ = ask_all(say, 2)
    assert [(outcome.response, outcome.attempts) for outcome in outcomes] == [("Answer: 4", 2), ("Answer: 4", 1)]


def test_a_request_that_suits_is_not_changed() -> None:
    outcomes, bodies = ask_all(lambda _: (200, completion("4")), 1)
    assert outcomes[0].adapted == ()
    assert bodies[0] == {"model": "scripted", "messages": [SYSTEM, USER], **OPTIONS}
