"""Site profiles: what users write, what is refused and how."""

import json
import re
from pathlib import Path

import pytest

from cluster.errors import ProfileError
from cluster.keys import NAME
from cluster.profile import Site, known_sites, to_yaml
from cluster.schedulers.sites import load_site

SHIPPED = {"local", "osk", "slurm"}


def profile(folder: Path, text: str, *overrides: str) -> Site:
    path = folder / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return load_site(str(path), overrides)


def test_the_shipped_profiles_load() -> None:
    assert set(known_sites()) >= SHIPPED
    assert load_site("local").scheduler == "local"
    assert load_site("slurm") == Site(scheduler="slurm")  # what it shows is the default
    osk = load_site("osk")
    assert (osk.partition, osk.nodelist, osk.time) == ("P04", "osk-gpu[60,62]", "6-00:00:00")
    assert (osk.gpus_per_node, osk.cpus_per_node, osk.memory, osk.interface) == (8, 64, "0", "enp25s0np0")


def test_the_seeds_cluster_has_no_left_overs() -> None:
    names = set(load_site("osk").env)
    assert not [name for name in names if re.match("RCCL|HSA|ROC|GPU_MAX|NVTE", name)]
    assert not names & {"NCCL_DEBUG", "NCCL_CHECKS_DISABLE", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"}


def test_the_generic_profile_shows_every_key() -> None:
    text = (Path(__file__).parents[2] / "conf/sites/slurm.yaml").read_text(encoding="utf-8")
    assert [key for key in Site.model_fields if not re.search(rf"^(# )?{key}:.*", text, re.MULTILINE)] == []


def test_a_resolved_profile_is_a_profile(tmp_path: Path) -> None:
    site = load_site("osk", ["time=04:00:00", "env.FOO=0123"])
    assert profile(tmp_path, to_yaml(site)) == site


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("time=04:00:00", "time", "04:00:00"),
        ("time=24:00:00", "time", "24:00:00"),
        ("time=null", "time", None),
        ("gpus_per_node=4", "gpus_per_node", 4),
        ("exclusive=false", "exclusive", False),
        ("memory=0", "memory", "0"),
        ("account=00123", "account", "00123"),
        ("nodelist=osk-gpu[60,62-64]", "nodelist", "osk-gpu[60,62-64]"),
        ("sbatch=[--qos=long, --time-min=01:00:00]", "sbatch", ["--qos=long", "--time-min=01:00:00"]),
        ("modules=[cuda/12.6,nccl/2.24.3]", "modules", ["cuda/12.6", "nccl/2.24.3"]),
        ("env.FOO=bar", "env", {"FOO": "bar"}),
        ("env.FOO=a=b", "env", {"FOO": "a=b"}),
        ("ports=21000-22999", "port_range", range(21_000, 23_000)),
    ],
)
def test_overrides_mean_what_they_say(override: str, key: str, value: object) -> None:
    assert getattr(load_site("slurm", [override]), key) == value


def test_an_override_leaves_the_rest(tmp_path: Path) -> None:
    site = profile(tmp_path, "partition: a\nenv: {A: one, B: two}\n", "env.B=three", "account=x")
    assert (site.partition, site.account, site.env) == ("a", "x", {"A": "one", "B": "three"})


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("time: 24:00:00", "time", "24:00:00"),  # YAML 1.1 has it as 86400, which sbatch takes for 60 days
        ("account: 0123", "account", "0123"),  # and this as 83, in base 8
        ("env: {A: 10:20}", "env", {"A": "10:20"}),
        ("env: {A: true}", "env", {"A": "true"}),
        ("memory: 0", "memory", "0"),
        ("partition: on", "partition", "on"),
    ],
)
def test_a_files_words_stay_as_they_are_written(tmp_path: Path, line: str, key: str, value: object) -> None:
    assert getattr(profile(tmp_path, line + "\n"), key) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("partitoin=P04", "Did you mean partition?"),
        ("gpu_per_node=8", "Did you mean gpus_per_node?"),
        ("gpus_per_node=eight", "gpus_per_node"),
        ("time=tomorrow", "time"),
        ("ports=20000", "ports"),
        ("ports=22000-21000", "ports"),
        ("ports=60000-70000", "ports"),
        ("env.TWO-WORDS=1", "TWO-WORDS"),
        ("--heal", "Expected key=value"),
        ("partition", "Expected key=value"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(override: str, message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(message)) as raised:
        load_site("slurm", [override])
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        *("- a list\n", "a: [\n", "just a word\n", "\x00", "env: " + "[" * 1000, "time: 1\n---\ntime: 2\n"),
        *("time: 1:00:00\ntime: 2:00:00\n", "env: {A: x, A: y}\n", "a: &a [x]\nb: [*a, *a]\n", "env: &a {A: *a}\n"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProfileError, match=re.escape("site.yaml")):
        profile(tmp_path, text)


def test_an_unknown_site_names_the_known_ones() -> None:
    for site in ("ozk", "", "../../etc/passwd", "a\0b", "x" * 5000):
        with pytest.raises(ProfileError, match="local, osk, slurm"):
            load_site(site)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "OPENAI_API_KEY",
            "HF_TOKEN",
            "WANDB_API_KEY",
            "MY_SECRET",
            "DB_PASSWORD",
            "PGPASSWORD",
            "SSHPASS",
            "MYTOKEN",
        ),
        *(
            "MYSQL_PWD",
            "DB_PASS",
            "GITHUB_PAT",
            "DOCKER_AUTH",
            "GPG_PASSPHRASE",
            "api-key",
            "OPENAI_APIKEY",
            "SSH_KEYS",
        ),
    ],
)
def test_a_secret_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ProfileError, match=r"secrets\.env") as raised:
        load_site("slurm", [f"env.{name}=hunter2"])
    assert name in str(raised.value) and "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "override",
    [
        "sbatch=['--export=ALL,HF_TOKEN=hunter2']",
        "sbatch=[--export=HF_TOKEN]",
        "env.http_proxy=http://me:hunter2@proxy:3128",
        "env.X='${oc.env:KOSEN_HUNTER}'",
        "env='${oc.env:KOSEN_HUNTER}'",
        f"env.X=hf_{'hunter2' * 6}",
        f"sbatch=[--comment=sk-{'hunter2' * 6}]",
    ],
)
def test_a_secret_gets_in_by_no_side_door(monkeypatch: pytest.MonkeyPatch, override: str) -> None:
    monkeypatch.setenv("KOSEN_HUNTER", "hunter2")
    with pytest.raises(ProfileError, match=r"secrets\.env") as raised:
        load_site("slurm", [override])
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("5", 300),
        ("4:30", 300),  # Slurm counts begun minutes
        ("0:05:00", 300),
        ("1-2", 93_600),
        ("1-2:30", 95_400),
        ("1-02:30:00", 95_400),
    ],
)
def test_a_grace_as_long_as_the_time_is_refused(time: str, seconds: int) -> None:
    with pytest.raises(ProfileError, match=f"time={time}, which are {seconds}:"):
        load_site("slurm", [f"time={time}", f"grace={seconds}"])
    load_site("slurm", [f"time={time}", f"grace={seconds - 1}"])
    load_site("slurm", ["time=0"])  # to Slurm no limit


@pytest.mark.parametrize("override", ["partition=P04", "gpus_per_node=8", "resubmit=1", "grace=10", "venv=/x"])
def test_a_local_site_does_not_ignore_slurms_keys(override: str) -> None:
    with pytest.raises(ProfileError, match=f"{override.partition('=')[0]} is for a site with a scheduler"):
        load_site("local", [override])


def test_a_local_site_has_keys_of_its_own(tmp_path: Path) -> None:
    site = load_site("local", ["ports=25000-26000", "temp_dir=/var/tmp", "env.A=b", "interface=lo"])
    assert profile(tmp_path, to_yaml(site)) == site


def test_words_that_only_resemble_secrets_are_allowed() -> None:
    words = (
        "TOKENIZERS_PARALLELISM",
        "MONKEY",
        "NCCL_IB_HCA",
        "PWD",
        "OLDPWD",
        "PATH",
        "MAX_TOKENS",
        "SSH_AUTH_SOCK",
        "BYPASS",
    )
    assert not [name for name in words if NAME.search(name)]


ADVICE = """
qos=long sbatch: [--qos=long]
q=long sbatch: [--qos=long]
constraint=h200 sbatch: [--constraint=h200]
C=h200 sbatch: [--constraint=h200]
reservation=team sbatch: [--reservation=team]
mail_user=me@site.example sbatch: [--mail-user=me@site.example]
mail-type=END sbatch: [--mail-type=END]
mem_per_gpu=10G sbatch: [--mem-per-gpu=10G]
licenses=x sbatch: [--licenses=x]
exclude=n1 sbatch: [--exclude=n1]
exclude=[n1,n2] sbatch: ['--exclude=n1,n2']
constraint=h200&ib sbatch: ["--constraint='h200&ib'"]
contiguous=true sbatch: [--contiguous]
hold=yes sbatch: [--hold]
gres=lustre:1 sbatch: [--gres=lustre:1]
time_min=1:00:00 sbatch: [--time-min=1:00:00]
begin=tomorrow sbatch: [--begin=tomorrow]
switches=1 sbatch: [--switches=1]
stepmgr=true sbatch: [--stepmgr]
gpus=8 Write `gpus_per_node: 8`
gres=gpu:8 Write `gpus_per_node: 8`
gpus=h100:8 Write `gpus_per_node: 8` and, for the type, `sbatch: [--gpus-per-node=h100:8]`
gres=gpu:a100-sxm4:4 Write `gpus_per_node: 4` and, for the type, `sbatch: [--gpus-per-node=a100-sxm4:4]`
gpus_per_node=h100:8 Write `gpus_per_node: 8` and, for the type, `sbatch: [--gpus-per-node=h100:8]`
mem=500G Did you mean memory?
cpus_per_task=4 Did you mean cpus_per_node?
signal=USR1@60 Did you mean grace?
nodes=4 use --nodes or NODES=
job_name=x use --name or NAME=
array=1-3 a cluster is one job
ntasks=8 each node gets one task
sbatch=--qos=long sbatch: [--qos=long]
partitoin=P04 Did you mean partition?
"""


@pytest.mark.parametrize(("override", "instead"), [line.split(" ", 1) for line in ADVICE.strip().splitlines()])
def test_an_option_of_sbatch_is_known_as_one(override: str, instead: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(instead)):
        load_site("slurm", [override])


@pytest.mark.parametrize(
    "option",
    [
        *("--nodes=4", "--nodes 4", "-N4", "-N 4", "-N=4", "--array=1-3", "-a 1-3", "--arr=1-3", "--ntasks=8", "-n8"),
        *("--ntasks-per-node=8", "--export=ALL", "--export-file=x", "--output=x", "-ox", "--error=x", "--job-name=x"),
        *("-J x", "--partition=x", "-p x", "--account=x", "--time=5", "-t5", "--nodelist=n1", "-wn1", "--mem=1G"),
        *("--cpus-per-task=4", "-c4", "--gpus-per-node=4", "--gpus-per-node=h100:4", "--exclusive", "--exclusive=user"),
        *("--signal=USR1@60", "--requeue", "--no-kill=off", "--clusters=x", "-Mx", "--wrap=x", "--wait", "-W"),
        *("--test-only", "--version", "-h", "-HN2", "--qos=long --nodes=4", "--qos long -N 4", "--qos='a b' -N4"),
        *("qos=long", "long", "", "--comment='a", "--qos=long\nrm -rf x", "--qos=a\r"),
        *("--gres=gpu:4", "--gres=gpu", "--gres=lustre:1,gpu:h100:4", "--gpus=16", "-G16", "--gpus-per-task=4"),
        *("--gpus-per-socket=4", "--tres-per-task=gres/gpu:4", "--tres-per-task=cpu=2,gres/gpu:h100=4"),
    ],
)
def test_an_option_that_would_override_the_scripts_is_refused(option: str) -> None:
    with pytest.raises(ProfileError, match=r"override|option of sbatch|gpus_per_node"):
        load_site("slurm", ["gpus_per_node=8", f"sbatch={json.dumps([option])}"])


@pytest.mark.parametrize(
    "option",
    [
        *("--qos=long", "--qos long", "-q long", "--constraint=h200&ib", "-C h200", "--gpus-per-node=h100:8", "-k"),
        *("--gres=gpu:8", "--gres=gpu:h100:8,lustre:1", "--gres=gpu:h100:4,gpu:a100:4", "--tres-per-task=gres/gpu:8"),
        *("--gres=lustre:1", "--mem-per-cpu=4G", "--time-min=1", "--comment='-N 4'", "--comment=--nodes=4", "--hold"),
        *("--reservation=x # -N 4", "--exclude=n1", "-xn1", "--begin=now+1day", "--no-kill", "--no-such-option=-N4"),
    ],
)
def test_any_other_option_is_sbatchs_matter(option: str) -> None:
    assert load_site("slurm", ["gpus_per_node=8", f"sbatch={json.dumps([option])}"]).sbatch == [option]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("temp_dir=tmp", "absolute"),
        ("temp_dir=./x", "absolute"),
        ("temp_dir=~/x", "absolute"),
        ("temp_dir=''", "absolute"),
        ("temp_dir=$TMPDIR", "not expanded"),
        ("temp_dir=/scratch/$USER", "not expanded"),
        ("venv=$HOME/kosen/.venv", "not expanded"),
        ("env.A=$HOME/x", "not expanded"),
        ("modules=[$CUDA]", "not expanded"),
        ('modules=["a\\nb"]', "one line"),
        ('venv="/a\\nb"', "one line"),
        ('conda="a\\nb"', "one line"),
        ('interface="eth0\\nx"', "one line"),
        ("login_host=-oProxyCommand=x", "name of a host"),
        ("login_host=a b", "name of a host"),
        ("time=٢٤:00:00", "time"),
        ("memory=٦٤G", "memory"),
        ("ports=٢0000-30000", "ports"),
        ("temp_dir=${TMPDIR}", "not expanded"),
        ('partition="a\\nb"', "one line"),
        ('temp_dir="/a\\nb"', "one line"),
    ],
)
def test_a_value_is_what_every_node_can_use(override: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load_site("slurm", [override])
