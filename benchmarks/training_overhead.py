"""The time of a training step: Kosen's drivers beside verl's own trainers, called by hand with the same keys.

    python benchmarks/training_overhead.py sft [--rounds 3] [--steps 40] [--processes 1]
    python benchmarks/training_overhead.py ppo [--rounds 3] [--steps 40] [--prompts 8] [--poll-interval SECONDS]

Both train the same tiny model, in turns, so that a noisy machine disturbs both. The first steps of each run are left
out. The model is so small that what Kosen adds to a step (lines in the journal, looks at flags, checks of numbers and
rewards) weighs more than it ever does in earnest. Nothing is saved or validated meanwhile.

sft: beside `torchrun -m verl.trainer.sft_trainer`, one run after the other. A step is the time from one logged step to
the next.

ppo: beside `python -m verl.trainer.main_ppo` in verl's mode `sync`, which our trainer is built on, with the user's
reward function loaded by verl itself. A run takes minutes to start, and load changes sooner: so both run at once, each
on a local cluster of its own (verl's queue serves one training a cluster), and take turns step
by step, one waiting while the other works. A step is the time from one batch of prompts to the next. verl looks every
2 s whether all answers are there. Ours looks more often, and what that saves would hide what the rest costs: so verl's
replay buffer looks as often as ours here, unless `--poll-interval 2` asks for its own pace.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from omegaconf import OmegaConf  # noqa: E402

from orchestrator.training.environment import worker_env  # noqa: E402
from orchestrator.training.folder import TrainingFolder, read_journal  # noqa: E402
from tests.support.harness import local_cluster, run, wait_for  # noqa: E402
from tests.support.ppo_runs import make_ppo_data, make_ppo_run  # noqa: E402
from tests.support.sft_runs import make_sft_data, make_sft_run, sft_overrides, write_rows  # noqa: E402

SFT_BATCH = 32
WARM_UP = 5  # steps
EPOCH = 12  # how often the prompts are in the data, so that an epoch has several steps
TIMEOUT = 1800.0  # seconds a run
STEP_LINE = re.compile(r"\bstep:\d+ - ")  # Ray and torchrun put the process's name before it
PHASE = re.compile(r"timing_s/(\w+):(?:np\.float64\()?([\d.e+-]+)")
POLLING = """\
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer


class Polling(ReplayBuffer):
    def __init__(self, **options):
        super().__init__(**options, poll_interval={interval})
"""


@dataclass
class Steps:
    """Seconds of steps, and of the phases in them that verl reports (PPO only)."""

    wall: list[float] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: "Steps") -> None:
        self.wall += other.wall
        for name, seconds in other.phases.items():
            self.phases.setdefault(name, []).extend(seconds)


Round = Callable[[int], dict[str, Steps]]  # one run of each, ours named "kosen"


def main() -> None:
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = "1"  # for both
    with tempfile.TemporaryDirectory() as folder:
        found = (_sft if arguments.job == "sft" else _ppo)(Path(folder), arguments)
    print(json.dumps({"job": arguments.job, **figures(found)}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["sft", "ppo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--processes", type=int, default=1, help="of sft")
    parser.add_argument("--prompts", type=int, default=8, help="of a step of ppo; each has 4 answers")
    parser.add_argument("--poll-interval", type=float, help="of verl's replay buffer, in seconds; default: as ours")
    return parser.parse_args()


def _all_rounds(one: Round, count: int) -> dict[str, Steps]:
    found: dict[str, Steps] = {}
    for number in range(count):
        for name, steps in one(number).items():
            _show(f"round {number + 1}", name, steps.wall)
            found.setdefault(name, Steps()).add(steps)
    return found


def _fastest_tenth(seconds: list[float]) -> float:
    """What is left when others use the machine too."""
    return statistics.quantiles(seconds, n=10)[0]


SUMMARIES: dict[str, Callable[[list[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
    "fastest_tenth": _fastest_tenth,
}


def figures(found: dict[str, Steps]) -> dict[str, Any]:
    """Milliseconds of both, and the ratio of ours to the other."""
    kinds = {"step": {name: steps.wall for name, steps in found.items()}}
    for phase in found["kosen"].phases:
        kinds[f"timing_s/{phase}"] = {name: steps.phases[phase] for name, steps in found.items()}
    result: dict[str, Any] = {"steps": {name: len(steps.wall) for name, steps in found.items()}}
    for kind, seconds in kinds.items():
        result[kind] = {key: _compared(seconds, summary) for key, summary in SUMMARIES.items()}
        for name, values in seconds.items():
            _show(kind, name, values)
    return result


def _compared(seconds: dict[str, list[float]], summary: Callable[[list[float]], float]) -> dict[str, float]:
    values = {name: 1000 * summary(found) for name, found in seconds.items()}
    (other,) = values.keys() - {"kosen"}
    rounded = {f"{name}_ms": round(value, 2) for name, value in values.items()}
    return rounded | {"ratio": round(values["kosen"] / values[other], 4)}


def _show(what: str, name: str, seconds: list[float]) -> None:
    parts = (f"{key} {1000 * summary(seconds):8.2f} ms" for key, summary in SUMMARIES.items())
    print(f"{what:<24} {name:<10} {len(seconds):>4} steps  {'  '.join(parts)}", file=sys.stderr, flush=True)


def _sft(home: Path, arguments: argparse.Namespace) -> dict[str, Steps]:
    """Kosen's driver in Ray Train, and torchrun."""
    steps, processes = arguments.steps, arguments.processes
    data = home / "data"
    data.mkdir()
    make_sft_data(data)
    write_rows(data / "train.parquet", 8 * SFT_BATCH)
    keys = [
        f"data.train_batch_size={SFT_BATCH}",
        "data.micro_batch_size_per_gpu=16",
        "data.val_files=null",
        *_no_pauses(steps),
    ]

    def kosen(path: Path) -> list[float]:
        folder = make_sft_run(data, path, *keys, processes=processes)
        done = run("orchestrator.training.trainer.sft_driver", str(folder.path), timeout=TIMEOUT)
        assert done.returncode == 0, done.stderr
        lines = [line for line in read_journal(folder) if line["event"] == "step"]
        return _between([datetime.fromisoformat(line["time"]).timestamp() for line in lines])

    def torchrun(path: Path) -> list[float]:
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += ["-m", "verl.trainer.sft_trainer", *sft_overrides(data, path, processes), *keys]
        times = _times_of_steps(command, data)
        assert len(times) == steps, f"{len(times)} of {steps} steps seen"
        return _between(times)

    def one(number: int) -> dict[str, Steps]:
        runs = {"kosen": kosen, "torchrun": torchrun}
        order = list(runs) if number % 2 == 0 else list(runs)[::-1]
        return {name: Steps(runs[name](home / f"{name}-{number}")[WARM_UP:]) for name in order}

    with local_cluster(home / "kosen"):
        return _all_rounds(one, arguments.rounds)


def _times_of_steps(command: list[str], cwd: Path) -> list[float]:
    """When verl's trainer printed each of its steps."""
    environment = os.environ | worker_env(cpu=True) | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    times, output = [], []
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if STEP_LINE.search(line):
                times.append(time.time())
    assert process.returncode == 0, "".join(output[-30:])
    return times


def _between(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def _no_pauses(steps: int) -> list[str]:
    """So many steps and nothing between them."""
    return [
        f"trainer.total_training_steps={steps}",
        f"trainer.total_epochs={steps}",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
    ]


def _ppo(home: Path, arguments: argparse.Namespace) -> dict[str, Steps]:
    """Kosen's driver, and verl's own command with the same pace of polling."""
    data = home / "data"
    data.mkdir()
    make_ppo_data(data)
    (data / "polling.py").write_text(POLLING.format(interval=arguments.poll_interval or _our_poll_interval()))

    def start(name: str, path: Path, turns: Path, state: dict[str, Any]) -> subprocess.Popen[bytes]:
        folder = make_ppo_run(data, path, *_ppo_keys(data, arguments), *_turns(turns, name, arguments.prompts))
        kosen = ["-m", "orchestrator.training.trainer.ppo_driver", str(path)]
        verl = ["-m", "verl.trainer.main_ppo", *_verl_keys(folder, data / "polling.py")]
        with (path / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *(kosen if name == "kosen" else verl)],
                cwd=data,
                env=_environment(home / f"cluster-{name}", state),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def one(number: int) -> dict[str, Steps]:
        turns = home / f"turns-{number}"
        turns.mkdir()
        (turns / "turn").write_text("kosen")
        paths = {name: home / f"{name}-{number}" for name in states}
        processes = {name: start(name, paths[name], turns, state) for name, state in states.items()}
        try:
            wait_for(lambda: _ended(processes, turns), TIMEOUT, "the end of both")
        finally:
            for process in processes.values():
                process.terminate()
                process.wait()
        for name, process in processes.items():
            assert process.returncode == 0, (paths[name] / "log").read_text()[-5000:]
        return {
            name: _ppo_steps(path / "log", turns / f"{name}.times", arguments.steps) for name, path in paths.items()
        }

    with local_cluster(home / "cluster-kosen") as ours, local_cluster(home / "cluster-verl") as theirs:
        states = {"kosen": ours, "verl": theirs}
        return _all_rounds(one, arguments.rounds)


def _our_poll_interval() -> float:
    from orchestrator.training.trainer.ppo_trainer import POLL_INTERVAL

    return POLL_INTERVAL


def _ppo_keys(data: Path, arguments: argparse.Namespace) -> list[str]:
    return [
        f"data.train_files=[{','.join([str(data / 'train.parquet')] * EPOCH)}]",
        f"data.train_batch_size={arguments.prompts}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={arguments.prompts}",
        *_no_pauses(arguments.steps),
    ]


def _turns(folder: Path, name: str, prompts: int) -> list[str]:
    """The data waits for its trainer's turn at each new batch, see turns.py."""
    return [
        f"data.custom_cls.path={Path(__file__).with_name('turns.py')}",
        "data.custom_cls.name=Turns",
        f"+data.turns={{folder:{folder},name:{name},batch:{prompts},timeout:{TIMEOUT}}}",
    ]


def _verl_keys(folder: TrainingFolder, polling: Path) -> list[str]:
    """The configuration of our driver without what is ours: its trainer, the wrapper of the reward, its own group.

    Ray's workers get the variables that they need on CPUs in the way that verl provides.
    """
    ours = OmegaConf.load(folder.verl_config).reward.custom_reward_function.reward_kwargs
    environment = worker_env(cpu=True) | {"PYTHONPATH": str(ROOT)}
    reward, sampler = "reward.custom_reward_function", "trainer.v1.sampler.custom_sampler"
    return [
        f"--config-path={folder.path}",
        f"--config-name={folder.verl_config.stem}",
        "hydra.output_subdir=null",
        f"hydra.run.dir={folder.path}",
        "~kosen",
        "trainer.v1.trainer_mode=sync",
        f"{sampler}.path={polling}",
        f"{sampler}.name=Polling",
        f"{reward}.path={ours.path}",
        f"{reward}.name={ours.name}",
        f"~{reward}.reward_kwargs",
        *(f"+ray_kwargs.ray_init.runtime_env.env_vars.{name}='{value}'" for name, value in environment.items()),
    ]


def _environment(cluster: Path, state: dict[str, Any]) -> dict[str, str]:
    """Where a process finds its cluster: ours by KOSEN_HOME, verl by Ray's own variables."""
    ray = {
        "KOSEN_HOME": str(cluster),
        "RAY_ADDRESS": state["ray_address"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(cluster / "clusters" / state["name"] / "token"),
    }
    return os.environ | worker_env(cpu=True) | ray | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


def _ended(processes: dict[str, subprocess.Popen[bytes]], turns: Path) -> bool:
    """Whether both have; the other does not wait for one that has."""
    ended = [process.poll() is not None for process in processes.values()]
    if any(ended):
        (turns / "alone").touch()
    return all(ended)


def _ppo_steps(log: Path, times: Path, steps: int) -> Steps:
    """The last step is left out: at its end no other batch begins. What verl calls a step has the waiting in it."""
    rows = [tuple(map(float, line.split())) for line in times.read_text().splitlines()]
    lines = [line for line in log.read_text().splitlines() if STEP_LINE.search(line)]
    assert len(lines) == steps == len(rows) + 1, f"{len(lines)} steps and {len(rows)} times of {steps} seen"
    found = Steps()
    for (wall, waited), line in zip(rows[WARM_UP:], lines[WARM_UP:-1], strict=True):
        phases = {name: float(seconds) for name, seconds in PHASE.findall(line)}
        phases["step"] -= waited
        found.add(Steps([wall], {name: [seconds] for name, seconds in phases.items()}))
    return found


if __name__ == "__main__":
    main()
