"""An OpenAI-compatible endpoint: where it is, which model it serves, and which key belongs to it."""

from dataclasses import dataclass

from orchestrator import secrets


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Travels to the batching actors; the key itself does not, each process looks it up by name."""

    base_url: str  # without a trailing slash, for example http://127.0.0.1:8000/v1
    model: str  # the id that /v1/models lists
    key_name: str | None = None  # environment variable or line of ~/.kosen/secrets.env
    serve_app: str | None = None  # our own deployment on Ray Serve; its key derives from the cluster's token

    def api_key(self) -> str | None:
        """The key to send, or None where the endpoint wants none."""
        if self.serve_app:
            return secrets.endpoint_key(self.serve_app)
        return secrets.find(self.key_name) if self.key_name else None

    def headers(self) -> dict[str, str]:
        key = self.api_key()
        return {"Authorization": f"Bearer {key}"} if key else {}
