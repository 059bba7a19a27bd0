"""Checkpoints in an S3 (moto) that stumbles, dies and comes back; a new node; the cold store; code in a checkpoint."""

import os
import pickle
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.training.checkpoints import commit, states, uploads
from ilm_ray.training.checkpoints.checkpoints import Checkpoints, Storage
from ilm_ray.training.checkpoints.retention import StoreRules
from ilm_ray.training.checkpoints.store import Store
from ilm_ray.training.checkpoints.uploads import Uploads
from tests.processes import run_ranks
from tests.stumbling import KEYS, Stumbling
from tests.training.checkpoints.small import flip, made, train
from tests.training.checkpoints.test_saving import names, restored

pytestmark = pytest.mark.ranks


def s3_client() -> Any:
    import boto3

    return boto3.client("s3")


@pytest.fixture
def server() -> Iterator[Any]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto
    moto.stop()


@pytest.fixture
def stumbling(server: Any, s3: str) -> Stumbling:
    wrapped = Stumbling(server._server.app)
    server._server.app = wrapped
    return wrapped


@pytest.fixture
def s3(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    host, port = server.get_host_and_port()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # all servers share one state
    for bucket in ("hot", "cold"):
        s3_client().create_bucket(Bucket=bucket)
    fsspec.filesystem("s3").clear_instance_cache()
    yield "s3://hot/run"
    fsspec.filesystem("s3").clear_instance_cache()


def _trained(folder: str, first: int, last: int, storage: Storage) -> None:
    part, checkpoints = made(), Checkpoints(Path(folder), storage)
    train(checkpoints, part, first, last)
    checkpoints.finish()


def kept(url: str) -> list[int]:
    return sorted(Store(url).checkpoints())


def test_training_fills_the_store_and_a_new_node_begins_from_it(s3: str, tmp_path: Path) -> None:
    storage = Storage(keep_local=1, store=s3)
    run_ranks(_trained, 2, str(tmp_path / "c"), 1, 3, storage)
    assert kept(s3) == [1, 2, 3] and names(tmp_path / "c") == ["step-00000003"]
    lines = restored(tmp_path / "new", 3, tmp_path / "notes", ranks=2, storage=storage)
    assert lines == [f"step-00000003 was fetched from {s3}", "training goes on from step-00000003"]
    assert commit.verify(tmp_path / "new" / "step-00000003") == []


def test_a_damaged_local_checkpoint_is_replaced_by_its_copy(s3: str, tmp_path: Path) -> None:
    storage = Storage(store=s3)
    run_ranks(_trained, 1, str(tmp_path / "c"), 1, 2, storage)
    flip(tmp_path / "c" / "step-00000002" / "__0_0.distcp")
    lines = restored(tmp_path / "c", 2, tmp_path / "notes", storage=storage)
    assert "DAMAGED" in lines[0] and "fetched" in lines[1] and commit.verify(tmp_path / "c" / "step-00000002") == []


def test_a_copy_that_is_damaged_in_the_store_is_passed_over(s3: str, tmp_path: Path) -> None:
    storage = Storage(store=s3)
    run_ranks(_trained, 1, str(tmp_path / "c"), 1, 2, storage)
    client, key = s3_client(), "run/step-00000002/__0_0.distcp"
    client.put_object(Bucket="hot", Key=key, Body=client.get_object(Bucket="hot", Key=key)["Body"].read()[:-1])
    lines = restored(tmp_path / "new", 1, tmp_path / "notes", storage=storage)
    assert "DAMAGED" in lines[1] and lines[-1] == "training goes on from step-00000001"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Two local checkpoints that no store has."""
    run_ranks(_trained, 1, str(tmp_path / "c"), 1, 2, Storage())
    return tmp_path / "c"


def uploads_of(
    folder: Path, url: str, heard: list[str], rules: StoreRules | None = None, cold: str | None = None
) -> Uploads:
    return Uploads(folder, Store(url), Store(cold) if cold else None, rules or StoreRules(), heard.append, lambda: None)


def test_an_upload_survives_single_errors_of_the_server(
    s3: str, stumbling: Stumbling, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "FIRST_WAIT_S", 0.01)
    failed = set[str]()

    def once(method: str, path: str) -> bool:
        new = method == "PUT" and path not in failed
        failed.add(path)
        return new

    stumbling.fails = once
    heard = list[str]()
    worker = uploads_of(local, s3, heard)
    worker.wake()
    assert worker.wait(60) and heard == [] and worker.missing() == [] and kept(s3) == [1, 2]
    assert len(failed) > 8  # every object had its error


def test_an_outage_is_bounded_said_and_made_up_for_after_the_next_checkpoint(
    s3: str, stumbling: Stumbling, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "FIRST_WAIT_S", 0.01)
    stumbling.fails = lambda method, path: method == "PUT"
    heard = list[str]()
    worker = uploads_of(local, s3, heard)
    started = time.monotonic()
    worker.wake()
    assert time.monotonic() - started < 0.5  # training does not wait for it
    assert worker.wait(100) and worker.missing() == [1, 2] and kept(s3) == []
    assert len(heard) == 1 and "step-00000002 could not be uploaded" in heard[0] and "tried again" in heard[0]
    stumbling.fails = lambda method, path: False
    worker.wake()
    assert worker.wait(60) and worker.missing() == [] and kept(s3) == [1, 2] and len(heard) == 1


def test_a_process_killed_in_the_middle_of_an_upload_leaves_no_checkpoint_there(
    s3: str, stumbling: Stumbling, local: Path
) -> None:
    seen: list[str] = []

    def hold(method: str, path: str) -> bool:
        if method == "PUT" and path.endswith("rng-0.json"):
            time.sleep(3)  # the process is killed meanwhile
        seen.append(f"{method} {path}")
        return False

    stumbling.fails = hold
    pid = os.fork()
    if pid == 0:
        uploads_of(local, s3, list[str]()).wake()
        time.sleep(60)
        os._exit(0)
    while not any("__0_0.distcp" in line for line in seen):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    stumbling.fails = lambda method, path: False
    assert kept(s3) == []
    worker = uploads_of(local, s3, list[str]())
    worker.wake()
    assert worker.wait(60) and kept(s3) == [1, 2]


def test_old_ones_move_to_the_cold_store_and_rules_keep_both(s3: str, local: Path) -> None:
    heard = list[str]()
    worker = uploads_of(local, s3, heard, StoreRules(cold_after_hours=1e-9), "s3://cold/run")
    worker.wake()
    assert worker.wait(60) and heard == []
    assert kept(s3) == [2] and kept("s3://cold/run") == [1]
    path = Store("s3://cold/run").fetch(1, local.parent / "thawed")
    assert commit.verify(path) == []
    listed = s3_client().list_objects_v2(Bucket="hot", Prefix="run/step-00000001")
    assert listed["KeyCount"] == 0
    worker = uploads_of(local, s3, heard, StoreRules(keep=1, cold_after_hours=1e-9), "s3://cold/run")
    worker.wake()
    assert worker.wait(60) and heard == [] and kept("s3://cold/run") == [] and kept(s3) == [2]


def test_a_damaged_copy_is_not_moved(s3: str, local: Path) -> None:
    Store(s3).upload(local / "step-00000001")
    Store(s3).upload(local / "step-00000002")
    client, key = s3_client(), "run/step-00000001/__0_0.distcp"
    data = bytearray(client.get_object(Bucket="hot", Key=key)["Body"].read())
    data[1000] ^= 1
    client.put_object(Bucket="hot", Key=key, Body=bytes(data))
    with pytest.raises(ValueError, match="another SHA-256"):
        Store(s3).move(1, Store("s3://cold/run"))
    assert kept(s3) == [1, 2] and kept("s3://cold/run") == []


def test_a_bucket_that_does_not_exist_is_not_made(s3: str, local: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bucket typo does not exist"):
        Store("s3://typo/run").upload(local / "step-00000001")
    assert {bucket["Name"] for bucket in s3_client().list_buckets()["Buckets"]} == {"cold", "hot"}


def test_a_store_that_cannot_be_read_stops_a_run_that_has_nothing_else(
    s3: str, stumbling: Stumbling, tmp_path: Path
) -> None:
    stumbling.fails = lambda method, path: True
    run_ranks(_nothing_else, 2, str(tmp_path / "c"), s3)
    with pytest.raises(UserError, match="give an fsspec URL"):
        Store("nosuch://x")


def _nothing_else(folder: str, url: str) -> None:
    with pytest.raises(UserError, match=r"store cannot be read .*training\.store=null"):
        Checkpoints(Path(folder), Storage(store=url)).restore([made()])


def _without_a_store_in_reach(folder: str, url: str) -> None:
    part = made()
    checkpoints = Checkpoints(Path(folder), Storage(keep_local=1, store=url))
    uploads.FIRST_WAIT_S = 0.0
    train(checkpoints, part, 1, 3)
    assert names(Path(folder)) == ["step-00000001", "step-00000002", "step-00000003"]  # none is anywhere else
    checkpoints.finish()


def test_what_the_store_does_not_have_stays_on_the_disk(
    s3: str, stumbling: Stumbling, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stumbling.fails = lambda method, path: True
    run_ranks(_without_a_store_in_reach, 1, str(tmp_path / "c"), s3)
    assert "steps [1, 2, 3] are in" in capfd.readouterr().err


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def test_a_checkpoint_cannot_run_code(local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path = local / "step-00000002"
    (path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"cannot be read .*has no place"):
        states.tensors_in(path)
    assert not (tmp_path / "pwned").exists()
