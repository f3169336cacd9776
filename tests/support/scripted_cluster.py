"""A cluster that is not there: a dashboard that answers as Ray's does, and the state of two nodes on Slurm."""

import json
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

from cluster.state import ClusterState

Answering = Callable[..., ClusterState]
ScriptedSlurm = Callable[[str], None]
TOKEN = "the-right-token"
SECRET = "planted-hunter2"


class Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray 2.60's dashboard does, to its token only."""

    answers: Mapping[str, Any]

    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        body = json.dumps(self.answers[self.path] if allowed else {}).encode()
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def ray_node(number: int, state: str = "ALIVE", *, start: int = 1, seen: bool = True) -> dict[str, Any]:
    """A node of `/nodes?view=summary`; `seen`: whether its agent has reported yet."""
    raylet = {
        "nodeManagerAddress": f"10.0.0.{number}",
        "nodeManagerHostname": f"n{number}",
        "state": state,
        "startTimeMs": str(start),
        "resourcesTotal": {"CPU": 64.0, "GPU": 2.0, "memory": 1.0},
    }
    gpus = [
        {"index": 0, "utilizationGpu": 97, "memoryUsed": 71680, "memoryTotal": 143360},
        {"index": 1, "utilizationGpu": None, "memoryUsed": 1024, "memoryTotal": 143360},
    ]
    figures = {"cpu": 12.5, "mem": [64 * 1024**3, 48 * 1024**3, 25.0, 16 * 1024**3], "gpus": gpus}
    return {"raylet": raylet, **(figures if seen else {})}


def answers(nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    replicas = [{"state": "RUNNING"}, {"state": "STARTING"}]
    engine = {"name": "engine", "status": "UPDATING", "target_num_replicas": 2, "replicas": replicas}
    job = {
        "submission_id": "raysubmit_1",
        "status": "RUNNING",
        "entrypoint": "python -m jobs.evaluate conf/hle.yaml 'models=[a,b]'\n" + "and=so " * 20,
        "start_time": 2,
        "runtime_env": {"env_vars": {"HF_HOME": SECRET}},
        "metadata": {},
    }
    driver = {"submission_id": None, "job_id": "02000000", "status": "FAILED", "entrypoint": "", "start_time": 1}
    return {
        "/nodes?view=summary": {"result": True, "data": {"summary": nodes}},
        "/api/serve/applications/": {
            "applications": {
                "qwen": {
                    "status": "DEPLOYING",
                    "deployments": {"engine": engine},
                    "deployed_app_config": {"runtime_env": {"env_vars": {"X": SECRET}}},
                }
            }
        },
        "/api/jobs/": [driver, job],
    }
