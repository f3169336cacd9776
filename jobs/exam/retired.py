"""Models that were judges and that their host has switched off, or says when it will."""

from datetime import UTC, date, datetime

# At api.openai.com: https://platform.openai.com/docs/deprecations
_SWITCHED_OFF = {
    "o3-mini-2025-01-31": date(2026, 10, 23),
    "gpt-4o-2024-08-06": date(2027, 1, 14),
}


def retirement(judge: str | None, today: date | None = None) -> str | None:
    """When OpenAI switched a judge off or will, as a clause; None for a model of which we know no such date."""
    day = _SWITCHED_OFF.get(judge or "")
    if day is None:
        return None
    past = day <= (today or datetime.now(UTC).date())
    return f"OpenAI {'switched' if past else 'switches'} it off on {day}"
