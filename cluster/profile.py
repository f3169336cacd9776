"""Site profiles: what differs from one cluster of machines to the next. conf/sites/<site>.yaml, key=value overrides."""

import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from cluster import keys
from cluster.errors import ProfileError
from cluster.files import REPOSITORY

SITES = REPOSITORY / "conf" / "sites"
PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]+@")  # http://user:password@proxy
VARIABLE = re.compile(r"\$(?:\{|[A-Za-z_])")  # of a shell, or a resolver of OmegaConf
NO_PLACE = "a batch script must not hold it. Put it into ~/.kosen/secrets.env (chmod 600)"
THIS_MACHINE = "local"  # the `scheduler` of a machine without one
LOCAL_KEYS = ("scheduler", "env", "interface", "ports", "temp_dir", "run_mode")


class Words(yaml.SafeLoader):
    """YAML whose scalars stay as they are written; only null is special.

    To YAML 1.1 24:00:00 is 86400, which sbatch takes for 60 days, 0123 is 83 and on is true. Site knows the types.
    """

    yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0] == "tag:yaml.org,2002:null"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Ten lines of aliases to aliases can stand for more values than a memory holds."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a profile has no aliases (*name). Write what they stand for")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Of two lines for one key the first would be silently lost."""
        names = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.YAMLError(f"the key {twice[0]} is there twice")
        return super().construct_mapping(node, deep)


class Site(BaseModel):
    """One site. Unknown keys are errors; `null` leaves a thing to the scheduler or to the machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: str | None = None  # a file of cluster/schedulers, or `local`; a profile without one gets the default
    # what to ask the scheduler for
    partition: str | None = None
    nodelist: str | None = None
    account: str | None = None
    time: str | None = Field(
        default=None, pattern=r"^([0-9]+-)?[0-9]+(:[0-9][0-9]){0,2}$"
    )  # days-hours:minutes:seconds
    exclusive: bool = True
    gpus_per_node: NonNegativeInt = 0
    cpus_per_node: PositiveInt | None = None
    memory: str | None = Field(default=None, pattern=r"^[0-9]+[KMGT]?$")  # per node, as sbatch --mem; 0 is all of it
    sbatch: list[str] = []  # any further options, one a line, for example --qos=long
    # what the processes on the nodes get
    modules: list[str] = []
    venv: str | None = None  # a folder; without it and `conda`, the Python that runs this command
    conda: str | None = None  # a name or a folder
    env: dict[str, str] = {}
    # how the nodes talk
    interface: str | None = None  # the one with the route to the other nodes
    ports: str = Field(default="20000-32767", pattern=r"^[0-9]+-[0-9]+$")  # every port of a cluster lies in here
    temp_dir: str = "/tmp"  # on each node; short, because a Unix socket's path has 107 bytes
    login_host: str | None = None  # where `ssh -L` goes through
    run_mode: str = Field(default="0700", pattern=r"^0?7[0-7][0-7]$")  # of new run folders, as chmod takes it
    # how long
    ready_timeout: PositiveInt = 600  # seconds from the allocation to a healthy cluster
    grace: PositiveInt = 300  # seconds before the walltime ends at which jobs are signalled to stop
    resubmit: NonNegativeInt = 0  # successors after a walltime or a lost node

    @field_validator("env")
    @classmethod
    def _no_secrets(cls, env: dict[str, str]) -> dict[str, str]:
        if secret := [name for name in env if keys.NAME.search(name.replace("-", "_"))]:
            raise ValueError(f"{secret[0]} looks like a secret; {NO_PLACE}")
        if secret := [name for name, value in env.items() if keys.holds_key(value)]:
            raise ValueError(f"{secret[0]} has what looks like a key; {NO_PLACE}")
        if secret := [name for name, value in env.items() if PASSWORD.search(value)]:
            raise ValueError(f"{secret[0]} has a password in an address; {NO_PLACE}")
        if wrong := [name for name in env if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)]:
            raise ValueError(f"{wrong[0]!r} is not a valid name of an environment variable")
        return env

    @field_validator(
        "partition", "account", "nodelist", "temp_dir", "modules", "venv", "conda", "interface", "login_host"
    )
    @classmethod
    def _one_line(cls, given: str | list[str] | None) -> str | list[str] | None:
        """A second line would be one of the batch script."""
        if any(not text.isprintable() for text in ([given] if isinstance(given, str) else given or [])):
            raise ValueError("expected one line of printable characters")
        return given

    @field_validator("login_host")
    @classmethod
    def _no_option_of_ssh(cls, host: str | None) -> str | None:
        """The line for `ssh -L` is there to be copied."""
        if host and not re.fullmatch(r"[\w.:@\[\]%][\w.:@\[\]%-]*", host):
            raise ValueError("expected the name of a host, for example login.site.example or me@login")
        return host

    @field_validator("temp_dir")
    @classmethod
    def _absolute(cls, folder: str) -> str:
        if not folder.startswith("/"):
            raise ValueError("expected an absolute path, which is the same on every node, for example /tmp")
        return folder

    @field_validator("sbatch", mode="before")
    @classmethod
    def _a_list(cls, options: Any) -> Any:
        if isinstance(options, str):
            raise ValueError(f"expected a list, one option an entry: sbatch: [{options}]")
        return options

    @field_validator("sbatch")
    @classmethod
    def _no_secret_options(cls, options: list[str]) -> list[str]:
        """`--export=HF_TOKEN` would have the scheduler store its value; so would `--export=HF_TOKEN=hf_…`."""
        for option in options:
            if keys.holds_key(option):
                raise ValueError(f"an option of sbatch has what looks like a key; {NO_PLACE}")
            names = re.findall(r"\w+" if option.startswith("--export") else r"\w+(?==)", option)
            if secret := [name for name in names if keys.NAME.search(name)]:
                raise ValueError(f"{secret[0]} in an option of sbatch looks like a secret; {NO_PLACE}")
        return options

    @field_validator("ports")
    @classmethod
    def _a_range(cls, ports: str) -> str:
        first, last = map(int, ports.split("-"))
        if not 1024 <= first < last <= 65535:
            raise ValueError("expected first-last, from 1024 to 65535")
        return ports

    @model_validator(mode="after")
    def _only_what_this_machine_has(self) -> Self:
        """A local cluster that silently ignored `time` or `gpus_per_node` would not be the one that was asked for."""
        fields = type(self).model_fields
        asked = [key for key in fields if key not in LOCAL_KEYS and getattr(self, key) != fields[key].default]
        if self.scheduler == THIS_MACHINE and asked:
            raise ValueError(
                f"{asked[0]} is for a site with a scheduler, and this one has scheduler: {THIS_MACHINE}. "
                f"That knows {', '.join(LOCAL_KEYS)}"
            )
        return self

    @property
    def job_stop_seconds(self) -> int:
        """What of the grace jobs get to stop in; the rest is for the cluster's own end."""
        return max(10, self.grace - 30)

    @property
    def port_range(self) -> range:
        first, last = map(int, self.ports.split("-"))
        return range(first, last + 1)


class Rules(Protocol):
    """What a scheduler adds to these rules; cluster.schedulers.base says more of it."""

    @property
    def name(self) -> str: ...

    def check_site(self, site: Site) -> None: ...

    def advice(self, key: str, value: object) -> str | None: ...


def load_site(site: str, overrides: Sequence[str], rules_of: Callable[[str | None], Rules | None]) -> Site:
    """The profile of `site`, a name in conf/sites or a path, with `key=value` overrides.

    `rules_of` gives the rules of a scheduler by its name, of the default one for None; this machine has none.
    Raises ProfileError, which names the file, the key and, for an unknown key, the nearest valid one.
    """
    path = Path(site) if site.endswith((".yaml", ".yml")) else SITES / f"{site}.yaml"
    if not os.path.exists(path):  # noqa: PTH110 - for which a name that is too long, or has a zero byte, is one of no file
        raise ProfileError(
            f"there is no site profile {path}. Known are {', '.join(known_sites())}; copy one and edit it"
        )
    wrong = [text for text in overrides if "=" not in text or text.startswith(("-", "="))]
    if wrong:
        raise ProfileError(f"{wrong[0]!r} is not an override. Expected key=value, for example time=04:00:00")
    try:
        merged = OmegaConf.create(_plain(yaml.load(path.read_text(encoding="utf-8"), Words)) or {})
        for key, text in (override.split("=", 1) for override in overrides):
            OmegaConf.update(merged, key, _plain(yaml.load(text, Words)), force_add=True)
        values = OmegaConf.to_container(merged, resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ProfileError(f"cannot read the site profile {path}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ProfileError(f"cannot read the site profile {path}: nested too deeply") from None
    try:
        return _validated(values, rules_of)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def _validated(values: Any, rules_of: Callable[[str | None], Rules | None]) -> Site:
    scheduler = values.get("scheduler") if isinstance(values, dict) else None
    rules = rules_of(scheduler if isinstance(scheduler, str) else None)
    try:
        site = Site.model_validate(values)
    except ValidationError as error:
        raise ProfileError("; ".join(_explain(dict(problem), rules) for problem in error.errors()[:3])) from None
    if rules is None:
        return site
    try:
        rules.check_site(site)
    except ValueError as error:
        raise ProfileError(str(error)) from None
    return site.model_copy(update={"scheduler": rules.name})


def _plain(values: Any) -> Any:
    """OmegaConf would expand `${oc.env:HF_TOKEN}`, and a secret would stand in a batch script. Nothing would expand
    `$HOME`, and a folder of that name would be made, or missed."""
    if VARIABLE.search(str(values)):
        raise ProfileError("a profile's values are not expanded: ${…} and $NAME cannot be used. Write the value; "
                           "a secret belongs into ~/.kosen/secrets.env (chmod 600)")  # fmt: skip
    return values


def known_sites() -> list[str]:
    return sorted(path.stem for path in SITES.glob("*.yaml"))


def to_yaml(site: Site) -> str:
    """The resolved profile, as --dry-run writes it."""
    return yaml.safe_dump(site.model_dump(), sort_keys=False)


def _explain(problem: dict[str, Any], rules: Rules | None) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    instead = rules.advice(name, problem["input"]) if rules else None
    if problem["type"] == "extra_forbidden" and instead:
        return f"unknown key {name}. {instead}"
    if name == "gpus_per_node" and instead:
        return f"gpus_per_node={problem['input']!r} is not only a number. {instead}"
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(name, list(Site.model_fields), n=1, cutoff=0)[0]
        return f"unknown key {name}. Did you mean {nearest}?"
    message = problem["msg"].removeprefix("Value error, ")
    whole = name in ("", "env")  # about the profile, not about one key; values of variables are not repeated
    return (
        message if whole or message.endswith("(chmod 600)") else f"{name}={problem['input']!r} does not fit: {message}"
    )
