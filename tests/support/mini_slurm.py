"""The small Slurm cluster from a shell: `python -m tests.support.mini_slurm up 4`, as root; `--help` has the rest."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from cluster.files import REPOSITORY
from tests.support.namespaces import Process
from tests.support.slurm_cluster import USABLE, MiniSlurm, MiniSlurmError, missing
from tests.support.slurm_conf import LOGIN, Settings

__all__ = ["LOGIN", "MiniSlurm", "MiniSlurmError", "Process", "missing"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A small Slurm cluster on this machine, for trying things by hand")
    parser.add_argument("--directory", type=Path, default=Settings.directory)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start, or start anew")
    up.add_argument("nodes", type=int, nargs="?", default=2)
    up.add_argument("--net", default=Settings.net, help="the first three octets of a /24 (%(default)s)")
    up.add_argument("--prefix", default=Settings.prefix, help="of the network interface (%(default)s)")
    up.add_argument("--share", type=Path, action="append", default=[], help="a path below /tmp to show in the nodes")
    for name in ("down", "status", "env"):
        commands.add_parser(name)
    for name in ("cut", "heal", "crash", "boot", "exec"):
        commands.add_parser(name).add_argument("node")
    commands.choices["exec"].add_argument("--user")
    commands.choices["exec"].add_argument("argv", nargs=argparse.REMAINDER)
    return parser.parse_args()


def _up(arguments: argparse.Namespace) -> int:
    slurm = MiniSlurm(
        nodes=arguments.nodes,
        share=(*arguments.share, REPOSITORY),
        repository=REPOSITORY,
        directory=arguments.directory,
        net=arguments.net,
        prefix=arguments.prefix,
    )
    slurm.up()
    print(f"up: {slurm.nodes} nodes, partition {slurm.partition}\nexport SLURM_CONF={slurm.conf}")
    return 0


def _status(slurm: MiniSlurm) -> int:
    states = {node: slurm.state(node) for node in slurm.names}
    print("\n".join(f"{node} {slurm.address(node)} {state}" for node, state in states.items()))
    return 0 if USABLE.issuperset(states.values()) else 1


def _exec(slurm: MiniSlurm, node: str, argv: list[str], user: str | None) -> int:
    process = slurm.popen(node, argv[argv[:1] == ["--"] :], user=user, stdin=None)
    while True:
        with suppress(KeyboardInterrupt):  # the terminal sent it to the command too, which decides
            return process.wait()


def main() -> int:
    arguments = _arguments()
    if arguments.command == "up":
        return _up(arguments)
    slurm = MiniSlurm.read(arguments.directory)
    if slurm is None:
        raise MiniSlurmError(f"no cluster in {arguments.directory}; start one with: {sys.argv[0]} up")
    if arguments.command == "status":
        return _status(slurm)
    if arguments.command == "exec":
        return _exec(slurm, arguments.node, arguments.argv, arguments.user)
    if arguments.command == "env":
        print(f"export SLURM_CONF={slurm.conf}")
    elif arguments.command == "down":
        slurm.down()
    else:
        getattr(slurm, arguments.command)(arguments.node)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (MiniSlurmError, TimeoutError, ValueError) as error:
        sys.exit(f"mini_slurm: {error}")
