"""What a person types on a laptop to reach the dashboard, job API and Serve of a cluster, all closed to outsiders."""

import getpass
import ipaddress
import shlex
import socket
from urllib.parse import urlsplit

from cluster.profile import THIS_MACHINE
from cluster.state import ClusterState, token_path

DASHBOARD_PORT = 8265  # on the laptop: the ports that Ray's own pages and examples name
SERVE_PORT = 8000


def tunnel_lines(state: ClusterState, site_login_host: str | None) -> list[str]:
    """The exact commands and addresses for a laptop, one a line.

    `site_login_host` is the profile's `login_host`, with a user or without; None means this host. Where the dashboard
    listens on its node's loopback only, as that of a local cluster does, the way leads through that node.
    """
    way = _way(state, site_login_host)
    token, folder = shlex.quote(str(token_path(state.name))), f"$HOME/.kosen/{state.name}"
    return [
        "On your laptop, in a terminal that stays open (where a port is taken, change the first number after its -L):",
        f"  ssh -N -o ExitOnForwardFailure=yes {_forwards(state)} {shlex.join(way)}",
        f"Dashboard: http://localhost:{DASHBOARD_PORT}",
        f"Serve applications, those that `make cluster-status` lists: http://localhost:{SERVE_PORT}/<application>",
        f"The dashboard asks for this cluster's token, which lies in {token} there and which only you can read.",
        "For `ray job submit` on the laptop, with the same version of Ray, fetch the token once:",
        f"  mkdir -p -m 700 {folder} && scp -p {shlex.join(_scp_way(way))}:{token} {folder}/token",
        f"  export RAY_ADDRESS=http://localhost:{DASHBOARD_PORT}"
        f" RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={folder}/token",
    ]


def _way(state: ClusterState, login_host: str | None) -> list[str]:
    """The destination, for a node behind the login host with the jump to it."""
    login = _with_user(login_host or _this_host())
    if not _is_loopback(_dashboard_host(state)):
        return [login]
    if state.scheduler != THIS_MACHINE:
        return ["-J", login, _with_user(state.nodes[0].name or state.nodes[0].ip)]
    home = _this_host() if state.host in ("", socket.gethostname()) else state.host
    return ["-J", login, _with_user(home)] if login_host else [_with_user(home)]


def _scp_way(way: list[str]) -> list[str]:
    """The same way for a copy; an IPv6 address needs brackets where a path follows."""
    user, _, host = way[-1].rpartition("@")
    return [*way[:-1], f"{user}@{_bracketed(host)}"]


def _forwards(state: ClusterState) -> str:
    dashboard = _dashboard_host(state)
    serve = dashboard if state.scheduler == THIS_MACHINE else state.ray_address.rpartition(":")[0].strip("[]")
    return (
        f"-L {DASHBOARD_PORT}:{_bracketed(dashboard)}:{state.ports['dashboard']}"
        f" -L {SERVE_PORT}:{_bracketed(serve)}:{state.ports['serve']}"
    )


def _this_host() -> str:
    name = socket.getfqdn()
    return socket.gethostname() if name.startswith("localhost") else name  # as a careless /etc/hosts has it


def _dashboard_host(state: ClusterState) -> str:
    return urlsplit(state.dashboard_url).hostname or "127.0.0.1"


def _with_user(host: str) -> str:
    return host if "@" in host else f"{getpass.getuser()}@{host}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
