"""From what a spec says about an endpoint to one that answers with the right model."""

import errno
import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.console import say
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.endpoints.model_list import read_ids, served_name
from orchestrator.endpoints.refusals import one_line
from orchestrator.errors import EndpointDown, SpecError

if TYPE_CHECKING:
    import openai  # a second of imports that the batching actors need not wait for

PROBE_SECONDS = 10.0  # for one answer
CONNECT_SECONDS = 5.0
TRY_FOR = 20.0  # seconds that a server which listens may need until it lists its models
FIRST_WAIT = 0.5  # seconds before the second try; doubles
SHOWN = 300  # characters of a server's words in a message
READ = 4000  # bytes of a server's error; more than is shown, so that a key is not cut before it is struck out
CLIENT_RETRIES = 4  # the openai package waits 0.5, 1, 2 and 4 s between them
_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL)


class Unreachable(EndpointDown):
    """Nothing listens at the address: a connection was refused, or there is no such host or no way to it."""


@dataclass(frozen=True)
class _Listing:
    """What an address says when asked for its models."""

    ids: tuple[str, ...] = ()
    seen: str = "an empty list of models"  # instead of names, in words
    error: EndpointDown | None = None  # what answers there is not an API at all


def check(endpoint: Endpoint, role: str) -> Endpoint:
    """Ask the endpoint for its models; returns it at the address that answers, with the id that it serves ours under.

    The list is not the truth: a model that it does not name, or a server without one, gets a warning, and the first
    call decides (a 404 to that ends the run).
    Raises SpecError for what is not an address, Unreachable if nothing listens there, EndpointDown if what listens does
    not answer, refuses the key or is not such an API, a page of HTML for example.
    """
    found, listing = _find(endpoint)
    name = served_name(endpoint.model, listing.ids)
    if name is None:
        told = _in_words(found, listing)
        say(f"{found.base_url} gives {told}, not {role}={endpoint.model}: the first call will decide")
    elif name != endpoint.model:
        say(f"{found.base_url} calls {role}={endpoint.model} {_show(found, name)}")
    return replace(found, model=name or endpoint.model)


def locate(endpoint: Endpoint) -> Endpoint:
    """The endpoint at the address that answers, for whoever makes a call of its own that is the true test.

    Nothing is raised for a server that is gone or refuses: that call says it better.
    """
    if not _others(endpoint.base_url):
        return endpoint
    with suppress(EndpointDown):
        return _find(endpoint)[0]
    return endpoint


def _in_words(endpoint: Endpoint, listing: _Listing) -> str:
    more = f" and {len(listing.ids) - 5} others" if len(listing.ids) > 5 else ""
    return _show(endpoint, ", ".join(sorted(listing.ids)[:5])) + more if listing.ids else listing.seen


def _find(endpoint: Endpoint) -> tuple[Endpoint, _Listing]:
    """The endpoint and its list; under another address of the same server where only that has a list of models."""
    listing = _list_models(endpoint, TRY_FOR)
    if listing.ids:
        return endpoint, listing
    for url in _others(endpoint.base_url):
        if theirs := _list_elsewhere(endpoint, url):
            say(f"base_url={endpoint.base_url} has no list of models, {url} has: using base_url={url}")
            return replace(endpoint, base_url=url), theirs
    root = _root(endpoint.base_url)
    elsewhere = f" ({root} has one: base_url={root})" if root and _list_elsewhere(endpoint, root) else ""
    if listing.error:
        raise EndpointDown(f"{listing.error}{elsewhere}")
    return endpoint, replace(listing, seen=listing.seen + elsewhere)


def _list_elsewhere(endpoint: Endpoint, url: str) -> _Listing | None:
    with suppress(EndpointDown):
        listing = _list_models(replace(endpoint, base_url=url), CONNECT_SECONDS)
        return listing if listing.ids else None
    return None


def _others(url: str) -> list[str]:
    """Addresses that were meant, perhaps: /v1 forgotten, or a page of the API copied."""
    base = re.sub(r"/models$", "", url)
    versioned = [] if re.search(r"/v\d\w*(/|$)", urlsplit(url).path) else [f"{url}/v1", f"{base}/v1"]
    return [other for other in dict.fromkeys([*versioned, base]) if other != url]


def _root(url: str) -> str | None:
    """Where most servers have their API, if the address leads elsewhere. A gateway may answer there for others too, so
    it is only named."""
    parts = urlsplit(url)
    root = f"{parts.scheme}://{parts.netloc}/v1"
    return None if root in (url, f"{url}/v1") else root


def is_this_host(url: str) -> bool:
    """Whether an address points at the machine that we run on."""
    try:
        host = urlsplit(url).hostname or ""
        if host in ("localhost", "0.0.0.0", "::", "::1", socket.gethostname()) or host.startswith("127."):
            return True
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):  # no such name; what is not an address at all
        return False
    return any(_is_bindable(str(address)) for address in addresses)


def _is_bindable(address: str) -> bool:
    """Only an address of one of our own interfaces can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def proxy_for(endpoint: Endpoint) -> str | None:
    """The proxy that the environment names for an endpoint; none stands before our own deployments and this host."""
    address = urlsplit(endpoint.base_url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if not proxy or _is_ours(endpoint):
        return None
    return None if urllib.request.proxy_bypass(address.hostname or "") else proxy


def _is_ours(endpoint: Endpoint) -> bool:
    return endpoint.serve_app is not None or is_this_host(endpoint.base_url)


def auth_headers(endpoint: Endpoint) -> dict[str, str]:
    """The endpoint's headers. Raises EndpointDown, naming the key and not its value, if no header can carry it."""
    key = endpoint.api_key()
    if key and not (key.isascii() and key.isprintable()):
        raise EndpointDown(
            f"the key {endpoint.key_name} for {endpoint.base_url} holds characters that no header can carry (a line "
            f"break, a control character or a letter outside ASCII). Set {endpoint.key_name} again"
        )
    return endpoint.headers()


def client(endpoint: Endpoint, timeout: float = PROBE_SECONDS) -> "openai.OpenAI":
    """The openai package's client, for the few calls where its load does not matter."""
    import openai

    _require_key(endpoint)
    direct = openai.DefaultHttpxClient(trust_env=False) if _is_ours(endpoint) else None
    return openai.OpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key() or "none",
        timeout=timeout,
        max_retries=CLIENT_RETRIES,
        http_client=direct,
    )


def _require_key(endpoint: Endpoint) -> dict[str, str]:
    """The headers, once the key that the endpoint wants is known to be there and fit for use."""
    if endpoint.key_name and endpoint.api_key() is None:
        raise EndpointDown(
            f"{endpoint.base_url} requires a key, but {endpoint.key_name} is not set. "
            f"Export it, or write {endpoint.key_name}=… into ~/.kosen/secrets.env (chmod 600)"
        )
    return auth_headers(endpoint)


def _list_models(endpoint: Endpoint, patience: float) -> _Listing:
    """What is said of models there; a server that is only busy is asked for `patience` seconds."""
    try:
        proxy = proxy_for(endpoint)
        headers = _require_key(endpoint)
        if not proxy:
            _check_listening(endpoint)
        return _get_models(endpoint, headers, proxy, patience)
    except (ValueError, http.client.InvalidURL) as error:
        raise SpecError(
            f"base_url={endpoint.base_url} is not an address ({error}). Expected something like http://localhost:8000/v1"
        ) from None


def _check_listening(endpoint: Endpoint) -> None:
    """A plain connection. Whether nothing listens decides what is started here, so it is asked separately."""
    address = urlsplit(endpoint.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    failures: list[Exception] = []
    try:
        socket.create_connection((address.hostname, port), CONNECT_SECONDS, all_errors=True).close()
    except OSError as error:  # the name has no address
        failures = [error]
    except ExceptionGroup as group:  # one for each address of the name
        failures = list(group.exceptions)
    if not failures:
        return
    seen = ", ".join(dict.fromkeys(str(failure) for failure in failures))
    if all(_is_absence(failure) for failure in failures):
        raise Unreachable(
            f"nothing listens at {endpoint.base_url} ({seen}). Start the server, or change base_url="
        ) from None
    raise EndpointDown(
        f"{endpoint.base_url} neither accepts nor refuses a connection ({seen}). Check the server, or change base_url="
    ) from None


def _is_absence(error: Exception) -> bool:
    if isinstance(error, ConnectionRefusedError | socket.gaierror):
        return True
    return isinstance(error, OSError) and error.errno in _NO_ROUTE


def _get_models(endpoint: Endpoint, headers: dict[str, str], proxy: str | None, patience: float) -> _Listing:
    """What /v1/models holds. A server that is only busy is asked again."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({urlsplit(endpoint.base_url).scheme: proxy} if proxy else {})
    )
    request = urllib.request.Request(f"{endpoint.base_url}/models", headers={"User-Agent": "kosen"})
    for name, value in headers.items():
        request.add_unredirected_header(name, value)  # a key goes to no other server
    deadline, wait = time.monotonic() + patience, FIRST_WAIT
    while True:
        left = deadline - time.monotonic()
        try:
            with opener.open(request, timeout=max(1.0, min(PROBE_SECONDS, left))) as response:
                content = bytes(response.read())
            return _read_list(endpoint, content)
        except urllib.error.HTTPError as error:
            if _has_no_list(error.code):
                return _Listing(seen=f"no list of models ({error.code})")
            failure, may_pass = _refusal(endpoint, error), error.code == 429 or error.code >= 500
        except http.client.InvalidURL:
            raise
        except (OSError, http.client.HTTPException) as error:
            failure, may_pass = _silence(endpoint, error), not _is_tls(error)
        if not may_pass or deadline - time.monotonic() < wait:
            raise failure
        time.sleep(wait)
        wait *= 2


def _refusal(endpoint: Endpoint, error: urllib.error.HTTPError) -> EndpointDown:
    if error.code == 401:
        key = f" {endpoint.key_name}" if endpoint.key_name else ""
        return EndpointDown(
            f"{endpoint.base_url} refuses the key{key}. Check it, or name another variable with api_key_env="
        )
    try:
        words = error.read(READ).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        words = str(error.reason)
    told = f"{endpoint.base_url}/models answers {error.code}: {_show(endpoint, words)}"
    return EndpointDown(f"{told}. Fix the server, or change base_url=")


def _silence(endpoint: Endpoint, error: Exception) -> EndpointDown:
    reason = getattr(error, "reason", None) or error
    told = _show(endpoint, str(reason)) or type(reason).__name__  # an invalid status line is in the server's words
    return EndpointDown(
        f"{endpoint.base_url} accepts connections but does not answer ({told}). Check the server, or change base_url="
    )


def _is_tls(error: Exception) -> bool:
    """A certificate, or a server that speaks no TLS: the same the next time."""
    return isinstance(getattr(error, "reason", error), ssl.SSLError)


def _show(endpoint: Endpoint, words: str, most: int = SHOWN) -> str:
    """A server's words in one line; should they repeat a key, without it. The one that was sent may be a short one."""
    shown, key = one_line(words), endpoint.api_key()
    return (shown.replace(key, "***") if key else shown)[:most]


def _has_no_list(status: int) -> bool:
    """A server that does not list its models, or not for this key, may serve them all the same. 501 says it too."""
    return status == 501 or (400 <= status < 500 and status not in (401, 407, 408, 425, 429))


def _read_list(endpoint: Endpoint, content: bytes) -> _Listing:
    try:
        ids = read_ids(content)
    except ValueError:
        seen = _show(endpoint, content[:READ].decode(errors="replace"), 80)
        error = EndpointDown(
            f"{endpoint.base_url}/models gives {seen!r}, expected an OpenAI-compatible list of models. Change base_url="
        )
        return _Listing(error=error)
    return _Listing(seen="no list of models that can be read") if ids is None else _Listing(ids)


def only_model(endpoint: Endpoint, role: str) -> str:
    """The one model that an endpoint serves. Raises SpecError where it serves several, so that `role`= must choose."""
    found, listing = _find(endpoint)
    if len(listing.ids) != 1:
        raise SpecError(f"{found.base_url} serves {_in_words(found, listing)}. Give {role}=")
    return listing.ids[0]
