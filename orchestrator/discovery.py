"""From what a spec says about an endpoint to one that answers with the right model."""

import socket
from urllib.parse import urlsplit

import openai

from orchestrator.endpoint import Endpoint
from orchestrator.errors import EndpointDown

PROBE_SECONDS = 10.0


class Unreachable(EndpointDown):
    """Nothing listens at the address."""


def check(endpoint: Endpoint, role: str) -> Endpoint:
    """Ask the endpoint for its models; returns it with the id under which it serves ours.

    Raises Unreachable if nothing listens, EndpointDown if it refuses the key or serves other models.
    """
    served = _list_models(endpoint)
    if served is None or endpoint.model in served:
        return endpoint
    if f"{endpoint.model}:latest" in served:  # how Ollama lists a model that was asked for without a tag
        return Endpoint(endpoint.base_url, f"{endpoint.model}:latest", endpoint.key_name)
    names = ", ".join(sorted(served)[:5]) or "no model"
    raise EndpointDown(f"{endpoint.base_url} serves {names}, not {role}={endpoint.model}. Change {role}= or base_url=")


def is_this_host(url: str) -> bool:
    """Whether an address points at the machine that we run on."""
    host = urlsplit(url).hostname or ""
    if host in ("localhost", "0.0.0.0", "::", "::1", socket.gethostname()) or host.startswith("127."):
        return True
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
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


def client(endpoint: Endpoint, timeout: float = PROBE_SECONDS) -> openai.OpenAI:
    """The openai package's client, for the few calls where its load does not matter."""
    key = endpoint.api_key()
    if endpoint.key_name and key is None:
        raise EndpointDown(
            f"{endpoint.base_url} wants a key, but {endpoint.key_name} is not set. "
            f"Export it, or write {endpoint.key_name}=… into ~/.kosen/secrets.env (chmod 600)"
        )
    return openai.OpenAI(base_url=endpoint.base_url, api_key=key or "none", timeout=timeout, max_retries=1)


def _list_models(endpoint: Endpoint) -> set[str] | None:
    """The ids that /v1/models lists, or None where the server has no such list."""
    try:
        return {model.id for model in client(endpoint).models.list()}
    except openai.APIConnectionError as error:
        reason = error.__cause__ or error
        raise Unreachable(
            f"nothing usable answers at {endpoint.base_url} ({reason}). Start the server, or change base_url="
        ) from None
    except openai.AuthenticationError:
        raise EndpointDown(
            f"{endpoint.base_url} refuses the key{f' {endpoint.key_name}' if endpoint.key_name else ''}. "
            "Check it, or name another variable with api_key_env="
        ) from None
    except openai.NotFoundError:
        return None
    except openai.APIStatusError as error:
        raise EndpointDown(f"{endpoint.base_url}/models answers {error.status_code}: {error.message}") from None
