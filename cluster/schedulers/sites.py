"""The profile of a site, by its own rules and by those of its scheduler."""

from collections.abc import Sequence

from cluster import profile
from cluster.profile import THIS_MACHINE, Rules, Site
from cluster.schedulers.base import scheduler_of


def load_site(site: str, overrides: Sequence[str] = ()) -> Site:
    """As `profile.load_site`, checked by the scheduler that it names too."""
    return profile.load_site(site, overrides, _rules_of)


def _rules_of(scheduler: str | None) -> Rules | None:
    return None if scheduler == THIS_MACHINE else scheduler_of(scheduler)
