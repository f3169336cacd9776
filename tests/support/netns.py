"""Network namespaces of a test: hosts with interfaces, routes and an /etc/hosts of their own. Root only."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path


def missing() -> str | None:
    """Why no namespace can be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need iproute2"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"network namespaces are not allowed here: {probe.stderr.strip()}" if probe.returncode else None


class Namespace:
    """One host. Its name is unique, so a test removes nothing but its own."""

    def __init__(self, hosts: str = "") -> None:
        self.name = f"kosen-{uuid.uuid4().hex[:8]}"
        ip("netns", "add", self.name)
        self.etc = Path("/etc/netns") / self.name  # `ip netns exec` shows these files in /etc
        self.etc.mkdir(parents=True)
        (self.etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{hosts}\n")
        (self.etc / "resolv.conf").write_text("")  # no name server to wait for
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)

    def add_interface(self, name: str, *addresses: str, peer: "tuple[Namespace, str] | None" = None) -> None:
        """An interface whose other end is `peer`'s, or lies in the same namespace."""
        other, other_name = peer or (self, f"{name}x")
        self.ip("link", "add", name, "type", "veth", "peer", "name", other_name, "netns", other.name)
        self.set_up(name, *addresses)
        other.set_up(other_name)

    def set_up(self, name: str, *addresses: str) -> None:
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []  # without it an IPv6 address is unusable for a second
            self.ip("address", "add", address, "dev", name, *nodad)
        self.ip("link", "set", "dev", name, "up")

    def command(self, *arguments: str, hostname: str | None = None) -> list[str]:
        """`arguments` as a command that runs in here; under another host name where one is given."""
        inside = ["ip", "netns", "exec", self.name]
        rename = ["unshare", "--uts", "sh", "-c", f'hostname {hostname}; exec "$@"', "sh"] if hostname else []
        return [*inside, *rename, *arguments]

    def remove(self) -> None:
        ip("netns", "delete", self.name)
        shutil.rmtree(self.etc)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)
