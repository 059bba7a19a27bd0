"""Nothing of the Ray that a job starts for itself may be reached from another machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# As a job does: Ray is imported before the job begins.
LISTENING = """
import json
import psutil
import ray
from ilm_ray.config import load_config
from jobs.frame.cluster import LocalRay

with LocalRay(load_config("nano", None, ["ray.dashboard=true"])):
    ray.get(ray.remote(lambda: 1).remote(), timeout=60)
    me = psutil.Process()
    rows = [row for one in (me, *me.children(recursive=True)) for row in one.net_connections(kind="inet")]
    print(json.dumps([row.laddr for row in rows if row.status == psutil.CONN_LISTEN]))
"""


@pytest.mark.ray
def test_no_other_machine_reaches_it() -> None:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", LISTENING]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    listening = json.loads(done.stdout.splitlines()[-1])
    assert len(listening) > 5
    addresses = {address.removeprefix("::ffff:") for address, _ in listening}
    assert addresses <= {"127.0.0.1", "::1"}, listening


@pytest.mark.parametrize("home", ["/proc", "/proc/nowhere", None])
def test_ray_gets_a_token_where_the_home_folder_cannot_be_written(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.frame.cluster import token_without_home

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home or str(tmp_path))
    try:
        token_without_home()
        assert ("RAY_AUTH_TOKEN" in os.environ) == (home is not None)
        kept = os.environ.get("RAY_AUTH_TOKEN")
        token_without_home()
        assert os.environ.get("RAY_AUTH_TOKEN") == kept, "a token that is there stays"
    finally:
        os.environ.pop("RAY_AUTH_TOKEN", None)
