"""The batch script that becomes of a site profile: its options, the environment that it sets up, its command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.profile import Site
from cluster.schedulers.slurm_script import EXPORT, batch_script


def script(folder: Path, site: Site, command: list[str] | None = None) -> Path:
    """The batch script of `site` in a folder whose name has a space and a quote."""
    awkward = folder / "Ana's folder"
    awkward.mkdir(exist_ok=True)
    path = awkward / "batch.sh"
    text = batch_script(
        site, name="c", nodes=2, output=awkward / "%j.log", command=command or ["true"], root=awkward / "kosen"
    )
    path.write_text(text, encoding="utf-8")
    return path


def run(path: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(["bash", str(path)], env=environment, capture_output=True, text=True, timeout=30, check=False)


FULL = {
    "partition": "P04",
    "account": "us",
    "nodelist": "n[1,3]",
    "time": "1-00:00:00",
    "memory": "500G",
    "gpus_per_node": 8,
    "cpus_per_node": 64,
    "grace": 120,
    "sbatch": ["--qos=long"],
    "modules": ["cuda/12.6", "nccl/2.24.3"],
    "conda": "our env",
    "venv": "~/some where",
    "env": {"QUOTED": "it's $HOME"},
}


def test_the_batch_script_is_bash_and_holds_every_option(tmp_path: Path) -> None:
    path = script(tmp_path, Site.model_validate(FULL))
    subprocess.run(["bash", "-n", str(path)], check=True)
    options = re.findall(r"^#SBATCH (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(options) >= {
        *("--job-name=kosen-c", "--partition=P04", "--account=us", "--nodes=2", "--ntasks-per-node=1"),
        *("--time=1-00:00:00", "--mem=500G", "--gpus-per-node=8", "--cpus-per-task=64", "--signal=B:USR2@120"),
        *("--qos=long", "--exclusive", "--no-kill", "--no-requeue", f"--export={','.join(EXPORT)}"),
    }


def test_what_the_profile_leaves_out_is_left_to_slurm(tmp_path: Path) -> None:
    text = script(tmp_path, Site(exclusive=False)).read_text(encoding="utf-8")
    absent = ("partition", "account", "nodelist", "time", "mem", "gpus", "cpus", "exclusive")
    assert not [word for word in absent if f"#SBATCH --{word}" in text]


@pytest.mark.skipif(not shutil.which("sbatch"), reason="there is no sbatch")
def test_sbatch_understands_the_script(tmp_path: Path) -> None:
    """The real sbatch reads the options; then it finds no controller, since nothing listens on port 1."""
    config = tmp_path / "slurm.conf"
    config.write_text("ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nAuthType=auth/none\n")
    path = script(tmp_path, Site.model_validate(FULL))
    done = subprocess.run(
        ["timeout", "3", "sbatch", "-vv", "--test-only", str(path)],
        env={"PATH": os.environ["PATH"], "SLURM_CONF": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )
    seen = dict(re.findall(r"^sbatch: (\S+) +: (.+)$", done.stderr, re.MULTILINE))
    assert seen["output"] == str(path.parent / "%j.log"), done.stderr
    assert (seen["partition"], seen["nodelist"], seen["nodes"], seen["cpus-per-task"]) == ("P04", "n[1,3]", "2", "64")
    assert (seen["time"], seen["mem"], seen["qos"], seen["gpus-per-node"]) == ("1-00:00:00", "500G", "long", "8")


def test_the_command_gets_environment_and_paths_with_spaces(tmp_path: Path) -> None:
    environment = tmp_path / "my env"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "activate").write_text("export ACTIVE=yes\n")
    site = Site(venv=str(environment), env={"QUOTED": "it's $HOME"})
    show = "import os, sys; print(sys.argv[1:], *map(os.environ.get, ('ACTIVE', 'QUOTED', 'PYTHONPATH')), sep='|')"
    path = script(tmp_path, site, [sys.executable, "-c", show, "two words", "$HOME"])
    done = run(path, PYTHONPATH="/before")
    assert done.stdout.strip() == f"['two words', '$HOME']|yes|it's $HOME|{path.parent / 'kosen'}:/before", done.stderr


def test_the_commands_exit_code_is_the_scripts(tmp_path: Path) -> None:
    assert run(script(tmp_path, Site(), ["bash", "-c", "exit 3"])).returncode == 3


@pytest.mark.parametrize(
    "site",
    [Site(modules=["cuda/0.0"]), Site(conda="no-such"), Site(venv="/no/such/folder")],
    ids=["modules", "conda", "venv"],
)
def test_an_environment_that_does_not_load_ends_with_4_before_the_command(tmp_path: Path, site: Site) -> None:
    failing = {"BASH_FUNC_module%%": '() { [ "$1" != load ]; }', "BASH_FUNC_conda%%": "() { false; }"}
    done = run(script(tmp_path, site, ["echo", "it ran"]), **failing)
    assert (done.returncode, done.stdout) == (4, "")


def test_the_login_environments_secrets_do_not_reach_the_command(tmp_path: Path) -> None:
    path = script(tmp_path, Site(env={"KEPT": "yes"}), ["env"])
    secrets = dict.fromkeys(("OPENAI_API_KEY", "HF_TOKEN", "my_password", "TOKEN"), "hunter2")
    done = run(path, **secrets, TOKENIZERS_PARALLELISM="false", MONKEY="1", SLURM_JOB_ID="7")
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout
    assert {"KEPT=yes", "TOKENIZERS_PARALLELISM=false", "MONKEY=1", "SLURM_JOB_ID=7"} <= set(done.stdout.splitlines())


def test_lmod_is_found_where_it_was_installed(tmp_path: Path) -> None:
    init = tmp_path / "init" / "bash"
    init.parent.mkdir()
    init.write_text('module() { echo "lmod $*"; [ "$2" != wrong ]; }\n')
    done = run(script(tmp_path, Site(modules=["a/2"]), ["echo", "it ran"]), LMOD_PKG=str(tmp_path))
    if "lmod" not in done.stdout:
        pytest.skip("this machine has modules of its own")
    assert done.stdout.splitlines() == ["lmod purge", "lmod load a/2", "it ran"]
    failed = run(script(tmp_path, Site(modules=["wrong"]), ["echo", "it ran"]), LMOD_PKG=str(tmp_path))
    assert failed.returncode == 4
    assert "error: `module load wrong` of the site profile failed on this node" in failed.stderr


def test_modules_load_after_a_purge_in_the_order_given(tmp_path: Path) -> None:
    told = {"BASH_FUNC_module%%": '() { echo "module $*"; }'}
    done = run(script(tmp_path, Site(modules=["b/1", "a/2"]), ["echo", "it ran"]), **told)
    if "module purge" not in done.stdout:
        pytest.skip("this machine has modules of its own")
    assert done.stdout.splitlines() == ["module purge", "module load b/1 a/2", "it ran"]
