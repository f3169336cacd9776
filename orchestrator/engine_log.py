"""What an engine wrote before it died, cut down to what a user can act on."""

import re

LOG_LINES = 12


def engine_log(name: str) -> str:
    """The output of the application's last engine replica, wherever in the cluster it ran."""
    from ray.util.state import get_log, list_actors
    from ray.util.state.exception import RayStateApiException

    try:
        replicas = [a for a in list_actors(limit=1000) if a.class_name.startswith(f"ServeReplica:{name}:LLMServer")]
        text = ""
        for suffix in ("out", "err"):
            text += "".join(get_log(actor_id=replicas[-1].actor_id, tail=200, suffix=suffix)) if replicas else ""
    except (RayStateApiException, ConnectionError) as error:
        return f"(the log could not be fetched: {error})"
    return text


def meaningful_lines(log: str) -> list[str]:
    """The last lines of a log without progress, colours, stack frames and repetitions."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in log.splitlines()]
    noise = re.compile(r'^\s*$|\b(INFO|DEBUG|WARNING)\b|File ".*", line|\^\^|(^|\])\s{4,}|^:(job_id|actor_name)')
    return list(dict.fromkeys(line for line in lines if not noise.search(line)))[-LOG_LINES:]
