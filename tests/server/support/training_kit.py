"""Training data, jobs and a worker that trains nothing, for tests of the gateway's side of training."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import openai
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob

from server.training.jobs.protocol import PROTOCOL_HEADERS
from tests.server.support.fake_engine import BASE, MODULES

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"{i} + 1 = ?"}], "answer": str(i + 1)}).encode() + b"\n"
    for i in range(20)
)
GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": GRADER}}


def upload(
    client: openai.OpenAI, content: bytes = ROWS, purpose: Any = "fine-tune", name: str = "r.jsonl"
) -> FileObject:
    return client.files.create(file=(name, io.BytesIO(content)), purpose=purpose)


def create_job(client: openai.OpenAI, **fields: Any) -> FineTuningJob:
    """A reinforcement job, unless the fields say otherwise."""
    fields = {"model": BASE, "method": REINFORCEMENT, **fields}
    if "training_file" not in fields:
        fields["training_file"] = upload(client).id
    return client.fine_tuning.jobs.create(**fields)


def vector(value: float = 0.5, count: int = len(MODULES)) -> str:
    """Of a job that names no recipe, on the engine of these tests."""
    return base64.b64encode(np.full(count, value, "<f4").tobytes()).decode()


@dataclass(frozen=True)
class Worker:
    """Talks to the gateway as a worker does."""

    http: httpx.Client
    factors: str
    name: str = "worker-1"

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/v1/worker/{path}", json={"worker": self.name, **body}, headers=PROTOCOL_HEADERS)

    def claim(self, capacity: int = 1, running: list[str] | None = None) -> dict[str, Any]:
        response = self.post("claim", base_model=BASE, factors=self.factors, capacity=capacity, running=running or [])
        assert response.status_code == 200, response.text
        claimed: dict[str, Any] = response.json()
        return claimed

    def claim_running(self, total_steps: int = 4) -> dict[str, Any]:
        """Validates whatever there is, and takes one job."""
        claimed = self.claim()["jobs"]
        for job in claimed:
            if job["status"] == "validating_files":
                assert self.validated(job["id"], total_steps).status_code == 200
        running = [job for job in claimed if job["status"] == "running"] or self.claim()["jobs"]
        (job,) = running
        assert job["status"] == "running"
        return dict(job)

    def validated(self, job_id: str, total_steps: int = 4) -> httpx.Response:
        return self.post(f"jobs/{job_id}/validated", total_steps=total_steps, training_rows=18, validation_rows=2)

    def report(
        self, job_id: str, step: int, reward: float = 0.5, *, value: float = 0.5, publish: bool = False, **fields: Any
    ) -> httpx.Response:
        data = {"step": step, "total_steps": 4, "scores": {"train_reward_mean": reward}}
        body: dict[str, Any] = {
            "step": step,
            "checkpoint": {
                "vector": vector(value),
                "optimizer": base64.b64encode(b"adam %d" % step).decode(),
                "state": {"rng": step},
                "publish": publish,
            },
            "metrics": {"train_reward_mean": reward, **({"valid_reward_mean": reward} if publish else {})},
            "trained_tokens": 100,
            "events": [{"message": f"Step {step}/4, train mean reward={reward}", "type": "metrics", "data": data}],
        }
        return self.post(f"jobs/{job_id}/report", **{**body, **fields})

    def finish(self, job_id: str, status: str, **fields: Any) -> httpx.Response:
        return self.post(f"jobs/{job_id}/finish", status=status, **fields)

    def succeed(self, job_id: str, value: float = 0.25) -> httpx.Response:
        best = {"vector": vector(value), "step": 4, "metrics": {"valid_reward_mean": 0.75}}
        return self.finish(job_id, "succeeded", best=best)
