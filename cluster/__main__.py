"""Ray clusters in a scheduler's queue or on this machine: python -m cluster up|run|preflight|status|tunnel|env|down"""

import argparse
import dataclasses
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.commands.backend import Backend, backend_of
from cluster.commands.heal import heal, wait_healed
from cluster.commands.status import exit_code, gather
from cluster.commands.status_text import as_json, render
from cluster.commands.tunnel import tunnel_lines
from cluster.errors import INTERRUPTED, ClusterError, KosenError, Parser, ProfileError
from cluster.folder.request import Mode, Request
from cluster.machine.network import no_proxy
from cluster.profile import THIS_MACHINE
from cluster.schedulers.base import known_schedulers
from cluster.schedulers.sites import load_site
from cluster.state import UP, ClusterState, client_variables, cluster_dir, is_damaged, known, read_state
from cluster.streams import guarded

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one sentence on standard error and an exit code."""
    try:
        args = _parse(list(sys.argv[1:] if argv is None else argv))
        return int(args.function(args))
    except KosenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise  # the output's reader is gone: not the cluster's fault
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return ClusterError.exit_code
    except KeyboardInterrupt:
        print("stopped waiting; the job keeps running: make cluster-status, make cluster-down", file=sys.stderr)
        return INTERRUPTED


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m cluster", description=__doc__)
    commands = parser.add_subparsers(dest="verb", required=True)

    def add(verb: str, function: Callable[[argparse.Namespace], int], purpose: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(verb, help=purpose, description=purpose)
        sub.set_defaults(function=function)
        return sub

    starting = [
        add("up", _up, "bring a cluster up and wait until it is healthy"),
        add("run", _run, "bring a cluster up, run the command after -- on its head, take it down"),
        add("preflight", _preflight, "check the nodes and the links between them, without Ray"),
    ]
    for sub in starting:
        sub.add_argument(
            "--site", default=THIS_MACHINE, help="a profile of conf/sites, or a path to one (default: local)"
        )
        sub.add_argument("--nodes", type=int, default=1)
        sub.add_argument("--name", help="default: the site's")
        sub.add_argument("--dry-run", action="store_true", help="write batch script and profile, submit nothing")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the profile")
    starting[0].add_argument("--heal", action="store_true", help="ask the scheduler for replacements of lost nodes")
    starting[0].add_argument("--ephemeral", action="store_true", help="local: the last job that leaves takes it down")
    starting[1].add_argument("--no-wait", action="store_true", help="print the batch job's id and return")
    running = {
        "status": add("status", _status, "nodes, GPUs, applications and jobs, as Ray and the scheduler see them"),
        "tunnel": add("tunnel", _tunnel, "how to reach dashboard and models from a laptop"),
        "env": add("env", _env, 'what a plain `ray job submit` needs: eval "$(python -m cluster env)"'),
        "down": add("down", _down, "stop this cluster and nothing else"),
    }
    for sub in running.values():
        sub.add_argument("--name", help="default: the only one there is")
    for sub in (starting[0], running["status"]):
        sub.add_argument("--json", action="store_true", help="print JSON")
    running["down"].add_argument("--if-unused", action="store_true", help="local: only when no job uses it")
    place = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:place])
    args.command = argv[place + 1 :]
    return args


def _request(args: argparse.Namespace, mode: Mode) -> tuple[Request, Backend]:
    site = load_site(args.site, args.overrides)
    site_name = Path(args.site).stem
    suffix = {"up": "", "run": time.strftime("-run-%d%H%M%S"), "preflight": time.strftime("-preflight-%d%H%M%S")}[mode]
    name = site_name + suffix if args.name is None else args.name
    _checked(name)
    if not args.dry_run:
        _refuse_damaged(name)
    if args.nodes < 1:
        raise ProfileError(f"--nodes={args.nodes}: a cluster has at least one node")
    request = Request(
        name=name,
        site_name=site_name,
        site=site,
        nodes=args.nodes,
        mode=mode,
        run_root=str(Path("runs").absolute()),
        cwd=str(Path.cwd()),
        command=args.command,
    )
    backend = backend_of(site.scheduler)
    backend.check(request)
    if mode == "run" and not args.command:
        raise ProfileError("there is no command. Expected: python -m cluster run … -- python -m jobs.evaluate …")
    return request, backend


def _checked(name: str) -> str:
    """It becomes a folder's name."""
    if not NAME.fullmatch(name):
        raise ProfileError(f"{name!r} is not a valid cluster name: letters, digits and . _ - only, 41 at most")
    return name


def _up(args: argparse.Namespace) -> int:
    if args.heal:
        name = _known_name(args.name)
        heal(name, _say)
        return _show_ready(wait_healed(name, _say), args.json)
    request, backend = _request(args, "up")
    if args.dry_run:
        return _show(backend.dry_run(request, _say))
    return _show_ready(backend.up(request, ephemeral=args.ephemeral, say=_say), args.json)


def _run(args: argparse.Namespace) -> int:
    request, backend = _request(args, "run")
    if args.dry_run:
        return _show(backend.dry_run(request, _say))
    return backend.run(request, wait=not args.no_wait, say=_say)


def _preflight(args: argparse.Namespace) -> int:
    request, backend = _request(args, "preflight")
    if args.dry_run:
        return _show(backend.dry_run(request, _say))
    return backend.preflight(request, _say)


def _status(args: argparse.Namespace) -> int:
    status = gather(_state(args.name))
    print(as_json(status) if args.json else render(status))
    return exit_code(status)


def _tunnel(args: argparse.Namespace) -> int:
    state = _reachable(args.name)
    print("\n".join(tunnel_lines(state, backend_of(state.scheduler).login_host(state.name))))
    return 0


def _reachable(name: str | None) -> ClusterState:
    state = _state(name)
    if state.phase not in UP:
        raise ClusterError(
            f"cluster {state.name!r} is {state.phase}; there is nothing to reach yet. make cluster-status"
        )
    return state


def _env(args: argparse.Namespace) -> int:
    state = _reachable(args.name)
    variables = client_variables(state)
    if any(key.lower() in PROXIES for key in os.environ):  # Ray's own commands would ask the proxy for the cluster
        names = [name for node in state.nodes for name in (node.name, node.ip)]
        variables |= no_proxy(os.environ, names)
    for key, value in variables.items():
        print(f"export {key}={shlex.quote(value)}")
    return 0


def _down(args: argparse.Namespace) -> int:
    name = _known_name(args.name, or_else=THIS_MACHINE)
    _refuse_damaged(name)
    state = read_state(name)
    backend = backend_of(state.scheduler if state else THIS_MACHINE)
    _say(backend.down(name, if_unused=args.if_unused))
    return 0


def _refuse_damaged(name: str) -> None:
    """Raise ClusterError for a damaged state: what cannot be stopped must not be forgotten either."""
    if is_damaged(name):
        ways = ", ".join(f"`{scheduler.hints.queue}`" for scheduler in known_schedulers())
        raise ClusterError(
            f"the state of cluster {name!r} in {cluster_dir(name)} cannot be read, so what it started cannot be "
            f"stopped. Find it ({ways}, `ps`), stop it, and remove that folder"
        )


def _state(name: str | None) -> ClusterState:
    chosen = _known_name(name)
    state = read_state(chosen)
    if state is None:
        there = ", ".join(known()) or "none"
        raise ClusterError(f"there is no cluster {chosen!r}; there is {there}. Start it: make cluster-up NAME={chosen}")
    return state


def _known_name(name: str | None, or_else: str | None = None) -> str:
    if name is not None:
        return _checked(name)
    names = known()
    if len(names) == 1:
        return names[0]
    if not names:
        if or_else:
            return or_else
        raise ClusterError("there is no cluster. Start one on this machine: make cluster-up SITE=local")
    raise ProfileError(f"there are several clusters: {', '.join(names)}. Choose one with NAME=")


def _show(text: str) -> int:
    print(text, end="")
    return 0


def _show_ready(state: ClusterState, as_json: bool) -> int:
    if as_json:
        return _print_state(state)
    for line in backend_of(state.scheduler).describe(state):
        print(line)
    return 0


def _print_state(state: ClusterState) -> int:
    print(json.dumps(dataclasses.asdict(state), indent=2))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
