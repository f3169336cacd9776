"""Waits until an application on Ray Serve runs and has answered a first request, or says why it does not."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from cluster.dashboard import DIRECT
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import EndpointDown
from orchestrator.serving.logs import LAST_WORDS, engine_log, meaningful_lines, workers_last_words
from orchestrator.serving.spec import ServingSpec

NO_PROCESS = "no worker process after 30 s: too few free resources, or the worker crashes at start"
POLL = 0.5  # seconds between two polls of a starting deployment

Progress = Callable[[str], None]


class Vanished(Exception):
    """An application that was there is there no more."""


def app_statuses() -> dict[str, str]:
    from ray import serve

    return {name: str(app.status.value) for name, app in serve.status().applications.items()}


def app_status(name: str) -> str | None:
    return app_statuses().get(name)


def wait_running(name: str, deadline: float, spec: ServingSpec, progress: Progress) -> None:
    """Wait for an application that is deployed; raises Vanished when it is deleted meanwhile."""
    from ray import serve

    shown = ""
    while True:
        app = serve.status().applications.get(name)
        if app is None or app.status.value == "DELETING":
            raise Vanished
        status = str(app.status.value)
        if status == "RUNNING":
            return
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            message = "; ".join(d.message for d in app.deployments.values() if d.message)
            raise _failed(name, f"the deployment is {status}", message)
        if time.monotonic() > deadline:
            seen = f"it is still {status} after startup_timeout={spec.startup_timeout:.0f} s"
            if any(map(_has_no_process, app.deployments.values())):
                words = "\n".join(meaningful_lines(workers_last_words(), LAST_WORDS))
                raise EndpointDown(
                    f"{name} did not start: {seen}, {NO_PROCESS}. The nodes' daemons wrote last:\n{words}"
                )
            raise _failed(name, seen, "")
        line = _progress_line(app)
        if line != shown:
            progress(line)
            shown = line
        time.sleep(POLL)


def _progress_line(app: Any) -> str:
    parts = [
        f"{name.removeprefix('LLMServer:')} {' '.join(f'{count} {state.lower()}' for state, count in states.items())}"
        + (f" ({NO_PROCESS})" if _has_no_process(deployment) else "")
        for name, deployment in sorted(app.deployments.items())
        if (states := {str(getattr(k, "value", k)): v for k, v in deployment.replica_states.items() if v})
    ]
    return "starting: " + (", ".join(parts) or "waiting for Serve")


def _has_no_process(deployment: Any) -> bool:
    """Whether Serve says that a replica has waited half a minute, for resources or for a worker that registers."""
    return "to be scheduled" in deployment.message


def _failed(name: str, seen: str, message: str) -> EndpointDown:
    """The error to raise, with what the engine wrote last."""
    log = "\n".join(meaningful_lines(engine_log(name)) + meaningful_lines(message))
    return EndpointDown(f"{name} did not start: {seen}. The end of the engine's log:\n{log}")


def wait_first_token(endpoint: Endpoint, deadline: float, spec: ServingSpec) -> None:
    """Until `/v1/models` lists our id and a chat request brings a token, through the proxy as clients go."""
    while (seen := _try_first_token(endpoint)) is not None:
        if app_status(str(endpoint.serve_app)) in (None, "DELETING"):
            raise Vanished
        if time.monotonic() > deadline:
            reason = f"no token within startup_timeout={spec.startup_timeout:.0f} s ({seen})"
            raise _failed(str(endpoint.serve_app), reason, "")
        time.sleep(POLL)


def _try_first_token(endpoint: Endpoint) -> str | None:
    """None once a token came, else why not yet. The proxy learns a new route some moments after the start (404, 503);
    whatever else goes wrong with the first request will go wrong with the second: an engine that dies of it is
    restarted for ever."""
    messages = [{"role": "user", "content": "1"}]
    try:
        listed = [entry["id"] for entry in _call(endpoint, "/models")["data"]]
        if endpoint.model not in listed:
            raise EndpointDown(f"{endpoint.base_url}/models lists {listed}, expected {endpoint.model!r}")
        _call(endpoint, "/chat/completions", {"model": endpoint.model, "messages": messages, "max_tokens": 1})
    except urllib.error.HTTPError as error:
        words = f"{error.code}: {error.read().decode(errors='replace')[:300]}"
        if error.code not in (404, 503):
            raise _failed(str(endpoint.serve_app), f"the first request was answered with {words}", "") from None
        return words
    except OSError as error:
        return str(error)
    return None


def _call(endpoint: Endpoint, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = json.dumps(body).encode() if body else None
    headers = endpoint.headers() | {"Content-Type": "application/json"}
    request = urllib.request.Request(endpoint.base_url + path, data=data, headers=headers)
    with DIRECT.open(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
