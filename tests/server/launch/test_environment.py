"""Variables of the user that would break a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COUNTS = """
from server.launch.environment import settle_environment
settle_environment()
from server.observability.metrics import GatewayMetrics
metrics = GatewayMetrics()
metrics.observe_upload("json", stored=True)
print(metrics.render().decode())
"""


def test_metrics_are_of_this_process_whatever_a_server_of_several_was_told(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "not" / "there"):
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
        done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, env=environment)
        assert 'tinylora_adapter_uploads_total{format="json",result="stored"} 1.0' in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []
