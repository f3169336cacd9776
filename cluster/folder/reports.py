"""What the nodes of a batch job publish in its folder."""

import os
from pathlib import Path
from typing import Any

from cluster.files import read_published
from cluster.state import Node


def node_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """What each node published last, by its name."""
    names = sorted(name for name in os.listdir(folder) if name.startswith("node-"))  # noqa: PTH208
    reports = [report for name in names if (report := read_published(folder / name))]
    return {report["host"]: report for report in reports}


def known_nodes(folder: Path) -> list[Node]:
    """The nodes of the cluster, the head first; those of replacements too, and those that gave up."""
    reports = [report for report in node_reports(folder).values() if report.get("ip")]
    reports.sort(key=lambda report: (report["role"] != "head", report["host"]))
    return [Node(name=r["host"], ip=r["ip"], cpus=r["cpus"], gpus=r["gpus"]) for r in reports]
