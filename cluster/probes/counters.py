"""The kernel's counters of a node's network interfaces and InfiniBand ports, cumulative since they came up."""

from dataclasses import dataclass
from pathlib import Path

import psutil

INFINIBAND = Path("/sys/class/infiniband")
PORT_COUNTERS = ("port_xmit_data", "port_rcv_data", "port_xmit_packets", "port_rcv_packets")


@dataclass(frozen=True, slots=True)
class Interface:
    """Of one network interface."""

    name: str
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int


def read_interfaces() -> list[Interface]:
    """The interfaces that have carried anything, the loopback too."""
    found = psutil.net_io_counters(pernic=True, nowrap=True).items()
    return [
        Interface(name, one.bytes_recv, one.bytes_sent, one.packets_recv, one.packets_sent)
        for name, one in sorted(found)
        if one.packets_recv or one.packets_sent
    ]


def read_ports(root: Path = INFINIBAND) -> dict[str, list[int | None]]:
    """PORT_COUNTERS of each port, by device/number; None is what the driver does not report.

    As the InfiniBand specification has it, the two counters of data are in units of 4 bytes.
    """
    ports = sorted(root.glob("*/ports/*"))
    return {
        f"{port.parts[-3]}/{port.name}": [_counter(port / "counters" / name) for name in PORT_COUNTERS]
        for port in ports
    }


def _counter(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # a virtual function has none, some drivers say "N/A"
        return None
