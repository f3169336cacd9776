"""Finding an endpoint: what is not there, what is there and no such API, and what must never be printed."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator import secrets
from orchestrator.endpoints import discovery
from orchestrator.endpoints.discovery import Unreachable, check, client, is_this_host, locate, only_model, proxy_for
from orchestrator.endpoints.endpoint import Endpoint, EndpointSpec
from orchestrator.errors import EndpointDown, SpecError
from tests.support.scripted_server import ScriptedServer

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
    assert requests[0].startswith(b"GET /v1/models ")
    with answering(http(b"no", "404 Not Found")) as (url, _):
        assert check(Endpoint(url, "any"), "model").model == "any"


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'[{"id":"m"}]', "m"),
        (b'["m","n"]', "m"),
        (b'{"data":["m"]}', "m"),
        (b'{"models":[{"id":"m"}]}', "m"),
        (b'{"models":[{"name":"m"}]}', "m"),
        (b'{"models":[{"name":"models/m","displayName":"M"}]}', "m"),
        (b'{"models":[{"name":"m:latest","model":"m:latest"}]}', "m"),
        (b'{"models":["m"]}', "m"),
        *((body, "m") for body in (b'{"result":[{"name":"m"}]}', b'{"model_list":[{"model_name":"m"}]}')),
        *((body, "m") for body in (b'{"data":[{"name":"m"}]}', b'{"data":{"models":[{"model":"m"}]}}')),
        (b'{"data":[{"id":5,"name":"m"}]}', "m"),
        (b'{"data":[null,{"id":"m"}]}', "m"),
        (b'{"data":[{"object":"model"},{"id":"m"},7]}', "m"),
        (b'\xef\xbb\xbf{"data":[{"id":"m"}]}', "m"),
        (b'{"data":[{"id":"models/m"}]}', "m"),
        (b'{"data":[{"id":"m"}]}', "models/m"),
        (b'{"data":[{"id":"o/m"}]}', "o/m:nitro"),
        (b'{"data":[{"id":"o/m"}]}', "o/m:free"),
        (b'{"data":[{"id":"o/m"}]}', "o/m:0a1b2c3d"),
        (b'{"data":[{"id":"openai/*"}]}', "openai/gpt-5"),
        (b'{"data":[{"id":"*"}]}', "m"),
        (b'{"data":[{"id":"Org/M"}]}', "org/m"),
    ],
)
def test_a_list_that_names_the_model_in_its_own_way_is_no_matter(
    body: bytes, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(http(body)) as (url, _):
        found = check(Endpoint(url, model), "model")
    assert found.model.casefold().removesuffix(":latest") == model.casefold()
    assert "first call" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (MODELS, "gives m, n:latest, not judge=x: the first call will decide"),  # a deployment's own name, at Azure
        (http(b'{"data":[{"id":"/models/x.gguf"}]}'), "gives /models/x.gguf, not judge=x"),
        (http(b'{"data":[{"id":"m"}],"has_more":true}'), "gives m, not judge=x"),
        (http(b'{"data":[{"id":"X"},{"id":"models/X"}]}'), "gives X, models/X, not"),
        (http(b"{}"), "an empty list of models"),
        (http(b"[]"), "an empty list of models"),
        (http(b'{"data":null}'), "an empty list of models"),
        (http(b'{"data":[null,{}]}'), "an empty list of models"),
        (http(b""), "an empty list of models"),
        (http(b"", "204 No Content"), "an empty list of models"),
        (http(b'{"data":5}'), "no list of models that can be read"),
        (http(b'"x"'), "no list of models that can be read"),
        (http(b'{"data":{"m":{}}}'), "no list of models that can be read"),
        *(
            (http(b"<html>no</html>", f"{status} No"), f"no list of models ({status})")
            for status in (400, 403, 404, 405, 406, 410, 422, 501)
        ),
    ],
)
def test_a_list_that_does_not_name_the_model_is_a_warning(
    answer: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answer) as (url, _):
        assert check(Endpoint(url, "x"), "judge") == Endpoint(url, "x")
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"<html>hello</html>", b" <!DOCTYPE html>", b"hello", b"\xff\xfe", b"[" * 100000])
def test_what_is_no_list_of_models_is_said_in_a_sentence(body: bytes) -> None:
    with answering(http(body)) as (url, _), pytest.raises(EndpointDown, match=r"expected an OpenAI-compatible") as told:
        check(Endpoint(url, "m"), "model")
    assert not isinstance(told.value, Unreachable)
    assert f"{url}/models" in str(told.value)
    assert "base_url=" in str(told.value)


@pytest.mark.parametrize(
    "page",
    [
        *(
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/models",
            "/v1/models/",
            "/v1/models/m",
            "/models",
            "/v1/chat",
            "/v1/completions",
        ),
        *("/v1/chat/completions", "/v1/chat/completions/", "/chat/completions", "/completions", "/v1/messages"),
    ],
)
def test_the_address_that_answers_is_used_and_named(
    scripted_server: ScriptedServer, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = scripted_server.base_url.removesuffix("/v1")
    given = EndpointSpec("model", "compatible", "scripted", root + page, None).endpoint()
    assert given
    assert check(given, "model") == Endpoint(scripted_server.base_url, "scripted")
    assert locate(given).base_url == scripted_server.base_url
    assert only_model(given, "judge") == "scripted"
    if given.base_url != scripted_server.base_url:
        assert f"using base_url={scripted_server.base_url}" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["/api", "/api/generate", "/docs", "/v2"])
def test_where_most_servers_have_their_api_is_named_and_not_used(
    scripted_server: ScriptedServer, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = Endpoint(scripted_server.base_url.removesuffix("/v1") + page, "scripted")
    assert check(given, "model") == given
    assert f"{scripted_server.base_url} has one: base_url={scripted_server.base_url}" in capsys.readouterr().err


def test_an_address_that_has_a_list_of_its_own_is_not_changed() -> None:
    azure = EndpointSpec("model", "compatible", "m", "https://h.services.ai.azure.com/models/", None).endpoint()
    assert azure and azure.base_url == "https://h.services.ai.azure.com/models"
    with answering(MODELS) as (url, requests):
        root = url.removesuffix("/v1")
        assert check(Endpoint(root, "m"), "model").base_url == root
        assert locate(Endpoint(url, "m")).base_url == url
    assert len(requests) == 1


def test_a_judge_that_is_gone_is_told_by_the_call_to_it() -> None:
    with answering(http(b"", "401 No")) as (url, _):
        root = Endpoint(url.removesuffix("/v1"), "m")
        assert locate(root) == root
    assert locate(root) == root


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:sesame@h/v1", "https://user:sesame@h:8000/v1", "http://sesame@h/v1", "http://:sesame@h/v1"),
        *("http://user:ses/ame@h/v1", "user:sesame@h:8000/v1", "http://user:ses#ame@h/v1", "HTTP://user:sesame@h"),
        *("http://h/v1?api_key=sesame", "http://h/v1#sesame", "h:8000?key=sesame"),
    ],
)
def test_a_key_in_an_address_is_refused_with_the_key_to_use_and_not_shown(url: str) -> None:
    with pytest.raises(SpecError, match="api_key_env=") as told:
        EndpointSpec("model", "compatible", "m", url, None).endpoint()
    assert "ses" not in str(told.value)


def test_a_server_that_repeats_the_key_does_not_get_it_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", "sesame")
    for answer in (http(b"bad key sesame", "500 No"), http(b"you are sesame")):
        with answering(answer) as (url, _), pytest.raises(EndpointDown, match=r"\*\*\*") as told:
            check(Endpoint(url, "m", "LAB_KEY"), "model")
        assert "sesame" not in str(told.value)


LONG_KEY = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    "answer",
    [
        http(f"bad key {LONG_KEY}".encode(), "500 No"),
        http(f"bad key {LONG_KEY[:30]}...".encode(), "500 No"),
        http(f"{'x' * 280} {LONG_KEY}".encode(), "500 No"),
        http(f"you are {LONG_KEY[:25]}***".encode()),
        http(f"{'x' * 50} {LONG_KEY}".encode()),
        f"what is {LONG_KEY}?\r\n\r\n".encode(),
        http(f'{{"data":[{{"id":"{LONG_KEY}"}},{{"id":"o"}}]}}'.encode()),
        http(f'{{"data":[{{"id":"m:{LONG_KEY}"}}]}}'.encode()),
        http(f'{{"data":[{{"id":"/{LONG_KEY}/m"}}]}}'.encode()),
    ],
)
def test_no_part_of_a_key_that_a_server_repeats_is_shown(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_traces", {})
    monkeypatch.setattr(secrets, "_handed", {})
    monkeypatch.setenv("LAB_KEY", LONG_KEY)
    told: list[str] = []
    monkeypatch.setattr(discovery, "say", told.append)
    with answering(answer) as (url, _):
        for ask in (check, only_model):
            try:
                ask(Endpoint(url, "m", "LAB_KEY"), "model")
            except (EndpointDown, SpecError) as error:
                told.append(str(error))
    assert told
    assert not any(LONG_KEY[start : start + 12] in " ".join(told) for start in range(len(LONG_KEY) - 11))


@pytest.mark.parametrize(
    "url",
    ["http://h/v1 x", "http://h\n/v1", "localhost:8000/v1", "http://", "ftp://h/v1", "http://h:0/v1", "http://[x"],
)
def test_an_address_that_cannot_be_is_told_in_a_line(url: str) -> None:
    with pytest.raises(SpecError, match="is not an address") as told:
        EndpointSpec("model", "compatible", "m", url, None).endpoint()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["http://[::1/v1", "http://a..b/v1", "http://localhost:99999/v1", "http://localhost:x/v1", "http://h/v1 x"]
)
def test_no_address_is_a_mistake_in_the_spec(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_check_listening", lambda _: None) if url.endswith("x") else None
    with pytest.raises(SpecError, match="is not an address"):
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
        with pytest.raises(EndpointDown, match="neither accepts nor refuses") as told:
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
