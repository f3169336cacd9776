"""Finding an endpoint: what is not there, what is there and no such API, and what must never be printed."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scripted_server import ScriptedServer

from orchestrator import discovery
from orchestrator.discovery import Unreachable, check, client, is_this_host, proxy_for
from orchestrator.endpoint import Endpoint
from orchestrator.errors import EndpointDown, SpecError

HANG, DROP = b"hang", b"drop"


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives one raw answer a connection, the last one for ever; yields its address and the requests."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                request = connection.recv(65536)
            except OSError:
                return
            if not request:  # only asked whether somebody listens
                continue
            requests.append(request)
            answer = answers[min(len(requests), len(answers)) - 1]
            kept.append(connection)
            if answer not in (HANG, DROP):
                connection.sendall(answer)
            if answer != HANG:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in kept:
            connection.close()
        thread.join(5)


def http(body: bytes, status: str = "200 OK", header: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n{header}Content-Length: {len(body)}\r\n\r\n".encode() + body


MODELS = http(b'{"object":"list","data":[{"id":"m"},{"id":"n:latest"}]}')


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "TRY_FOR", 1.5)
    monkeypatch.setattr(discovery, "FIRST_WAIT", 0.05)


def test_a_model_is_found_under_the_name_that_serves_it(scripted_server: ScriptedServer) -> None:
    assert check(Endpoint(scripted_server.base_url, "scripted"), "model").model == "scripted"
    with answering(MODELS) as (url, requests):
        assert check(Endpoint(url, "n"), "model").model == "n:latest"
        with pytest.raises(EndpointDown, match=r"serves m, n:latest, not judge=x\. Change judge="):
            check(Endpoint(url, "x"), "judge")
    assert requests[0].startswith(b"GET /v1/models ")
    with answering(http(b"no", "404 Not Found")) as (url, _):
        assert check(Endpoint(url, "any"), "model").model == "any"


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b"[]", b'{"data":5}', b'{"data":[{"name":"x"}]}', b"", b"\xff\xfe", b'"x"', b"[" * 100000],
)
def test_what_is_no_list_of_models_is_said_in_a_sentence(body: bytes) -> None:
    with answering(http(body)) as (url, _), pytest.raises(EndpointDown, match=r"expected an OpenAI-compatible") as told:
        check(Endpoint(url, "m"), "model")
    assert not isinstance(told.value, Unreachable)
    assert f"{url}/models" in str(told.value)
    assert "base_url=" in str(told.value)


@pytest.mark.parametrize(
    "url", ["http://[::1/v1", "http://a..b/v1", "http://localhost:99999/v1", "http://localhost:x/v1", "http://h/v1 x"]
)
def test_no_address_is_a_mistake_in_the_spec(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_check_listening", lambda _: None) if url.endswith("x") else None
    with pytest.raises(SpecError, match="is no address"):
        check(Endpoint(url, "m"), "model")


def test_this_host_is_known_by_its_names() -> None:
    assert is_this_host("http://localhost:1/v1")
    assert is_this_host("http://127.0.0.7/v1")
    assert not is_this_host("http://192.0.2.1/v1")
    assert not is_this_host("http://[::1/v1")
    assert not is_this_host("http://a..b/v1")


def test_unreachable_is_a_refused_connection_or_an_unknown_name() -> None:
    with ScriptedServer() as server:
        url = server.base_url
    for gone in (url, url.replace("127.0.0.1", "localhost"), "http://no-such-host.invalid/v1"):
        with pytest.raises(Unreachable, match="nothing listens at"):
            check(Endpoint(gone, "m"), "model")


@pytest.mark.parametrize("answer", [HANG, DROP, b"SSH-2.0-OpenSSH_9.9\r\n", MODELS[:-9]])
def test_a_server_that_listens_and_is_silent_is_not_unreachable(answer: bytes) -> None:
    started = time.monotonic()
    with answering(answer) as (url, _), pytest.raises(EndpointDown, match="but does not answer") as told:
        check(Endpoint(url, "m"), "model")
    assert not isinstance(told.value, Unreachable)
    assert time.monotonic() - started < 5


def test_a_connection_that_nobody_takes_is_not_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "CONNECT_SECONDS", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        socket.socket() as first,
        socket.socket() as more,
    ):
        for filler in (first, more):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        with pytest.raises(EndpointDown, match="neither takes nor refuses") as told:
            check(Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m"), "model")
    assert not isinstance(told.value, Unreachable)


@pytest.mark.parametrize(
    "first", [http(b"", "429 Too Many Requests"), http(b"", "503 Service Unavailable"), http(b"", "500 Oh"), DROP]
)
def test_a_busy_server_is_asked_again(first: bytes) -> None:
    with answering(first, first, MODELS) as (url, requests):
        assert check(Endpoint(url, "m"), "model").model == "m"
    assert len(requests) == 3


def test_a_server_that_stays_busy_or_refuses_is_told_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(http(b"overloaded", "503 No")) as (url, requests):
        with pytest.raises(EndpointDown, match="answers 503: overloaded"):
            check(Endpoint(url, "m"), "model")
        assert len(requests) > 2
    monkeypatch.setenv("LAB_KEY", "sesame")
    with answering(http(b"go away", "401 No")) as (url, requests):
        with pytest.raises(EndpointDown, match="refuses the key LAB_KEY") as told:
            check(Endpoint(url, "m", "LAB_KEY"), "model")
        assert len(requests) == 1
    assert "sesame" not in str(told.value)
    with pytest.raises(EndpointDown, match="NO_KEY is not set"):
        check(Endpoint(url, "m", "NO_KEY"), "model")


@pytest.mark.parametrize("key", ["sesa\rme", "sesa\nme", "sesamé", "sesa\x07me"])
def test_a_key_that_no_header_carries_is_named_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", key)
    with answering(MODELS) as (url, requests):
        for ask in (
            lambda: check(Endpoint(url, "m", "LAB_KEY"), "model"),
            lambda: client(Endpoint(url, "m", "LAB_KEY")),
        ):
            with pytest.raises(EndpointDown, match=r"the key LAB_KEY .* no header can carry") as told:
                ask()
            assert "sesa" not in str(told.value)
            assert not isinstance(told.value, Unreachable)
    assert requests == []


def test_a_key_does_not_follow_a_redirect_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", "sesame")
    with (
        answering(MODELS) as (other, seen),
        answering(http(b"", "302 Found", f"Location: {other}/models\r\n")) as (
            url,
            asked,
        ),
    ):
        check(Endpoint(url, "m", "LAB_KEY"), "model")
    assert b"Bearer sesame" in asked[0]
    assert b"sesame" not in seen[0]


def test_no_proxy_stands_before_this_host(monkeypatch: pytest.MonkeyPatch, scripted_server: ScriptedServer) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    endpoint = Endpoint(scripted_server.base_url, "scripted")
    assert check(endpoint, "model") == endpoint
    assert [model.id for model in client(endpoint).models.list()] == ["scripted"]
    assert proxy_for(Endpoint("http://192.0.2.1:8000/v1", "m", serve_app="kosen-m")) is None
    assert proxy_for(Endpoint("https://192.0.2.1/v1", "m")) == "http://127.0.0.1:9"
    with answering(MODELS) as (
        proxy,
        requests,
    ):  # what is behind a proxy is asked through it, without a look of our own
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
        assert check(Endpoint("http://far.invalid/v1", "m"), "model").model == "m"
    assert requests[0].startswith(b"GET http://far.invalid/v1/models ")


def test_the_openai_client_is_patient_too() -> None:
    busy = http(b"{}", "429 Too Many Requests", "retry-after-ms: 10\r\n")
    with answering(busy, busy, busy, busy, MODELS) as (url, _):
        assert next(iter(client(Endpoint(url, "m")).models.list())).id == "m"
