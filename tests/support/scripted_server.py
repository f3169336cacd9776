"""An OpenAI-compatible server whose faults are written into the questions. Stands in for remote APIs.

A question asks for its own fault with a marker; a number after x counts how often it comes before the normal answer:
    [500x3] [503x1] [429x2:1] (Retry-After: 1) [429date] (as HTTP date, once) [drop] [dropx2] [dropbody]
    [always500] [badjson] [badjsonx1] [nochoices] [400] [context] (400 while a token budget is asked) [hang] [slow:20]
    [truncated] [loop] [empty] [null] [think]
A judge call (response_format json_schema) heeds only markers that start with "judge:", anywhere in its prompt: all
of the above, as in [judge:500x2], and
    [judge:malformed] (once) [judge:never] (always malformed) [judge:truncated] (until max tokens >= 8192)
    [judge:empty] (once) [judge:over] (confidence 250)
Its verdict says whether the text after "[correct_answer]:" is what the response's last "Answer:" line holds.

Beside the API, GET /requests tells what was asked and POST /control {"mode": ..., "seconds": ...} breaks the whole
server, for so many seconds or until told otherwise. Modes: ok · down500 · down503 · unauthorized · missing (404) ·
refuse (the port is closed, so only `seconds` or ScriptedServer.control() brings it back).
"""

import argparse
import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Answer = Callable[[str], str]  # from the last user message to the text of the reply
# From a request's body to a reply of one's own (status, body, Retry-After or None), None where the usual one will do.
Say = Callable[[dict[str, Any]], tuple[int, bytes, str | None] | None]
MARKER = re.compile(r"\[(judge:)?([\w:.]+)\]")
FAULT = re.compile(r"\[(always)?([45]\d\d|drop|dropbody|badjson|nochoices)(?:x(\d+))?(?::([\d.]+))?\]")
STATUS_OF_MODE = {"down500": 500, "down503": 503, "unauthorized": 401, "missing": 404}
MESSAGES = {401: "Incorrect API key provided", 404: "The model `x` does not exist", 429: "Rate limit reached"}
LOOP = "and so we go on with the same step again "


def echo(question: str) -> str:
    """The default answer: whatever stands after "say:" in the question, or its first word."""
    said = re.search(r"say:\s*(\S+)", question)
    answer = said[1] if said else (question.split() or [""])[0]
    return f"Explanation: it follows from the question.\nAnswer: {answer}\nConfidence: 80%"


class ScriptedServer:
    """Serves in a thread of its own inside its `with` block; `requests()` and `control()` may be called there."""

    def __init__(
        self,
        *,
        answer: Answer = echo,
        say: Say | None = None,
        model: str = "scripted",
        latency: float = 0.0,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.answer, self.model, self.latency, self.api_key = answer, model, latency, api_key
        self.say = say
        self.host, self.port = host, port
        self.mode = "ok"
        self.times: list[float] = []  # when each chat request came in, time.monotonic()
        self.asked: Counter[str] = Counter()
        self.options: dict[str, list[dict[str, Any]]] = {}
        self.in_flight = self.max_in_flight = 0
        self._faults: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def requests(self) -> dict[str, Any]:
        """asked: how often each question came; options: the bodies without their messages; the most at one time."""
        return {
            "asked": dict(self.asked),
            "total": sum(self.asked.values()),
            "options": self.options,
            "max_in_flight": self.max_in_flight,
        }

    def control(self, mode: str, seconds: float | None = None) -> None:
        """Switch the whole server to `mode`, after `seconds` back to ok."""
        self._call(self._switch(mode, seconds))

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> None:
        app = web.Application(client_max_size=256 * 2**20)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/requests", self._requests)
        app.router.add_post("/control", self._control)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True, backlog=4096)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        """Close the port, and every connection without an answer."""
        if self._runner and self._runner.server:
            for connection in self._runner.server.connections:
                abort(connection.transport)
            await self._runner.cleanup()
            self._runner = None

    async def _switch(self, mode: str, seconds: float | None = None) -> None:
        if mode not in {"ok", "refuse", *STATUS_OF_MODE}:
            raise ValueError(f"no mode {mode!r}")
        self.mode = mode
        if mode == "refuse":
            await self._stop()
        elif self._runner is None:
            await self._start()
        if seconds is not None:
            self._loop.call_later(seconds, lambda: self._loop.create_task(self._switch("ok")))

    async def _models(self, request: web.Request) -> web.Response:
        return self._refusal(request) or web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "tests"}]}
        )

    async def _requests(self, request: web.Request) -> web.Response:
        return web.json_response(self.requests())

    async def _control(self, request: web.Request) -> web.Response:
        body = await request.json()
        # Later, so that `refuse` does not cut this reply off.
        self._loop.call_later(0.05, lambda: self._loop.create_task(self._switch(body["mode"], body.get("seconds"))))
        return web.json_response({"mode": body["mode"]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        question = last_user_text(body["messages"])
        self._log(question, body)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            if self.say and (said := self.say(body)):
                return raw(*said)
            refusal = self._refusal(request)
            markers = markers_of(body)
            return refusal or await self._fault(request, question, markers) or self._reply(markers, body)
        finally:
            self.in_flight -= 1

    def _log(self, question: str, body: dict[str, Any]) -> None:
        self.times.append(time.monotonic())
        self.asked[question] += 1
        self.options.setdefault(question, []).append({key: body[key] for key in body if key != "messages"})

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.mode in STATUS_OF_MODE:
            return error(STATUS_OF_MODE[self.mode])
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return error(401)
        return None

    async def _fault(self, request: web.Request, question: str, markers: str) -> web.StreamResponse | None:
        if "[hang]" in markers:
            await asyncio.sleep(3600)
        if slow := re.search(r"\[slow:([\d.]+)\]", markers):
            await asyncio.sleep(float(slow[1]))
        if "[context]" in markers and budget_of(self.options[question][-1]):
            return error(
                400, "This model's maximum context length is 64 tokens. However, you requested 99 output tokens."
            )
        if "[429date]" in markers and self._first(question):
            later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
            return error(429, retry_after=later)
        if (marker := FAULT.search(markers)) and self._due(question, marker):
            return await self._break(request, marker[2], marker[4])
        return None

    def _first(self, text: str) -> bool:
        self._faults[text] += 1
        return self._faults[text] == 1

    def _due(self, question: str, marker: re.Match[str]) -> bool:
        self._faults[question] += 1
        return marker[3] is None or self._faults[question] <= int(marker[3])

    async def _break(self, request: web.Request, kind: str, retry_after: str | None) -> web.StreamResponse:
        if kind == "badjson":
            return web.Response(text='{"choices": [', content_type="application/json")
        if kind == "nochoices":
            return web.json_response({"error": {"message": "upstream failed"}})
        if kind == "drop":
            abort(request.transport)
            return web.Response()
        if kind == "dropbody":
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices":')
            abort(request.transport)
            return response
        return error(int(kind), retry_after=retry_after)

    def _reply(self, markers: str, body: dict[str, Any]) -> web.Response:
        prompt = "\n".join(text_of(message) for message in body["messages"])
        if is_judge_call(body):
            text, finish = self._verdict(prompt, markers, budget_of(body))
            return web.json_response(completion(self.model, prompt, {"content": text}, finish))
        message, finish = self._message(last_user_text(body["messages"]), markers)
        return web.json_response(completion(self.model, prompt, message, finish))

    def _message(self, question: str, markers: str) -> tuple[dict[str, Any], str]:
        text = self.answer(question)
        special: dict[str, tuple[dict[str, Any], str]] = {
            "[truncated]": ({"content": text[: len(text) // 2]}, "length"),
            "[loop]": ({"content": "Explanation: " + LOOP * 30}, "length"),
            "[empty]": ({"content": ""}, "stop"),
            "[null]": ({"content": None, "reasoning": "I am still thinking"}, "length"),
            "[think]": ({"content": f"<think>\nlet me see\n</think>\n\n{text}"}, "stop"),
        }
        return next((special[marker] for marker in special if marker in markers), ({"content": text}, "stop"))

    def _verdict(self, prompt: str, markers: str, budget: int) -> tuple[str, str]:
        text = json.dumps(verdict(prompt, confidence=250 if "[over]" in markers else None))
        if "[never]" in markers or ("[malformed]" in markers and self._first("malformed" + prompt)):
            return 'Sure! {"correct": maybe', "stop"
        if "[truncated]" in markers and budget < 8192:
            return text[:20], "length"
        if "[empty]" in markers and self._first("empty" + prompt):
            return "", "stop"
        return text, "stop"


def is_judge_call(body: dict[str, Any]) -> bool:
    return (body.get("response_format") or {}).get("type") == "json_schema"


def budget_of(body: dict[str, Any]) -> int:
    return body.get("max_completion_tokens") or body.get("max_tokens") or 0


def markers_of(body: dict[str, Any]) -> str:
    """The markers that are meant for this kind of call, without their "judge:"."""
    text = "\n".join(text_of(message) for message in body["messages"])
    found = MARKER.findall(text)
    return "".join(f"[{name}]" for prefix, name in found if bool(prefix) == is_judge_call(body))


def verdict(prompt: str, confidence: int | None) -> dict[str, Any]:
    """Judge by the labels of HLE's judge prompt."""
    correct = re.search(r"^\[correct_answer\]:\s*(.*)", prompt, re.MULTILINE)
    expected, before = (correct[1].strip(), prompt[: correct.start()]) if correct else ("", prompt)
    given = [None, *re.findall(r"^\**Answer:\**\s*(.*)$", before, re.MULTILINE)][-1]
    said = re.search(r"^\**Confidence:\**\s*(\d+)", before, re.MULTILINE)
    return {
        "extracted_final_answer": given or "None",
        "reasoning": f"{given!r} against {expected!r}",
        "correct": "yes" if given and given.strip() == expected else "no",
        "confidence": confidence or (int(said[1]) if said else 100),
        "strict": True,
    }


def abort(transport: asyncio.WriteTransport | None) -> None:
    if transport:
        transport.abort()


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def last_user_text(messages: list[dict[str, Any]]) -> str:
    return next(text_of(message) for message in reversed(messages) if message["role"] == "user")


def completion(model: str, prompt: str, message: dict[str, Any], finish: str) -> dict[str, Any]:
    """A chat completion; tokens are counted as words."""
    words = len(prompt.split()), len(str(message.get("content")).split())
    usage = {"prompt_tokens": words[0], "completion_tokens": words[1], "total_tokens": sum(words)}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def raw(status: int, body: bytes, retry_after: str | None) -> web.Response:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def error(status: int, message: str | None = None, retry_after: str | None = None) -> web.Response:
    text = message or MESSAGES.get(status, f"scripted fault {status}")
    headers = {"Retry-After": retry_after} if retry_after else {}
    return web.json_response({"error": {"message": text, "code": status}}, status=status, headers=headers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, help="gets the port once the server listens")
    parser.add_argument("--script", type=Path, help="JSON: the answer to each question, by a part of its text")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every reply")
    parser.add_argument("--model", default="scripted")
    parser.add_argument("--api-key")
    args = parser.parse_args()
    script: dict[str, str] = json.loads(args.script.read_text(encoding="utf-8")) if args.script else {}

    def answer(question: str) -> str:
        return next((text for part, text in script.items() if part in question), echo(question))

    options: dict[str, Any] = {"model": args.model, "latency": args.latency, "api_key": args.api_key}
    with ScriptedServer(answer=answer, port=args.port, **options) as server:
        if args.port_file:
            staged = args.port_file.with_suffix(".new")
            staged.write_text(str(server.port), encoding="utf-8")
            staged.replace(args.port_file)
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
