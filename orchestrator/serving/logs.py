"""What an engine wrote before it died, cut down to what a user can act on."""

import re

LOG_LINES = 12
LAST_WORDS = 30  # lines: an interpreter that cannot start prints its whole configuration before it says why


def engine_log(name: str) -> str:
    """The output of the application's last engine replica, wherever in the cluster it ran."""
    import ray
    from ray.util.state import get_log, list_actors
    from ray.util.state.exception import RayStateApiException

    address = ray.get_runtime_context().gcs_address  # a machine may have several clusters
    prefix = f"ServeReplica:{name}:LLMServer"
    text = ""
    try:
        replicas = [actor.actor_id for actor in list_actors(address, limit=1000) if actor.class_name.startswith(prefix)]
        for suffix in ("out", "err") if replicas else ():
            text += "".join(get_log(address, actor_id=replicas[-1], tail=200, suffix=suffix))
    except (RayStateApiException, ConnectionError) as error:
        return f"(the log could not be fetched: {error})"
    return text


def workers_last_words() -> str:
    """What processes wrote that ended before Ray knew them, which only their nodes' daemons have."""
    import ray
    from ray.util.state import get_log
    from ray.util.state.exception import RayStateApiException

    address = ray.get_runtime_context().gcs_address
    text = ""
    for node in (node for node in ray.nodes() if node["Alive"]):
        try:
            words = "".join(get_log(address, node_id=node["NodeID"], filename="raylet.err", tail=50))
        except (RayStateApiException, ConnectionError) as error:
            words = f"(the log could not be fetched: {error})"
        text += f"{node['NodeManagerHostname']}, raylet.err:\n{words}" if words else ""
    return text


def meaningful_lines(log: str, most: int = LOG_LINES) -> list[str]:
    """The last lines of a log without progress, colours, stack frames and repetitions."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in log.splitlines()]
    noise = re.compile(r'^\s*$|\b(INFO|DEBUG|WARNING)\b|File ".*", line|\^\^|(^|\])\s{4,}|^:(job_id|actor_name)')
    return list(dict.fromkeys(line for line in lines if not noise.search(line)))[-most:]
