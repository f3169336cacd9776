"""What a check found, and how a list of that is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("ok", "warning", "error")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one node: how bad it is, what was seen, and what to do (empty where nothing is)."""

    severity: Severity
    check: str
    node: str
    seen: str
    advice: str = ""


def worst(findings: Iterable[Finding]) -> Severity:
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def render(findings: Sequence[Finding]) -> str:
    """Errors first, then warnings, two lines each; one line sums up what was fine."""
    bad = [finding for severity in ("error", "warning") for finding in findings if finding.severity == severity]
    lines = [f"{f.severity:<7}  {f.node}  {f.check}: {f.seen}\n         {f.advice}".rstrip() for f in bad]
    fine = list(dict.fromkeys(finding.check for finding in findings if finding.severity == "ok"))
    if fine:
        lines.append(f"ok       {', '.join(fine)}")
    return "\n".join(lines)
