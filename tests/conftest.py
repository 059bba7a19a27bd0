"""The tiers of the tests, one Ray for the whole test session, and where the real data lies.

A test is `quick` unless a marker says why not. Two markers come from fixtures: `ray` from `local_ray`, `gpu` from
`cuda`. The others stand at the test. That a quick test starts no process is watched while it runs.
"""

import gc
import multiprocessing.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A test that shares its machine may take any time; Hypothesis' own deadline is 200 ms.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True, database=None, max_examples=20)
hypothesis.settings.load_profile("patient")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a private cluster of this test session
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
if not os.environ.get("GPU_TESTS"):  # set by `make gpu`: every other test runs the same with and without GPUs
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

FIXTURES = {"local_ray": "ray", "cuda": "gpu"}
CHAINS = ("ray", "ranks")  # several processes at work, or several GiB: of each, one test at a time
NOT_QUICK = {*CHAINS, "process", "long", "slow", "gpu"}

_started = list[str]()

# Imports and collection make a million objects that stay. A full garbage collection walks through all of them, and
# tests allocate enough for hundreds of those: a seventh of `make quick`.
gc.disable()


def pytest_collection_finish() -> None:
    """Garbage collection begins, and passes over what is there by now."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks from fixtures, the tier `quick`, and which tests share a worker of pytest-xdist."""
    for item in items:
        for fixture in FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(FIXTURES[fixture])
        marks = {mark.name for mark in item.iter_markers()}
        if not marks & NOT_QUICK:
            item.add_marker("quick")
        # The other groups are files: what a file's tests share is made once.
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(next((chain for chain in CHAINS if chain in marks), file)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _started.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    result = yield
    if _started and item.get_closest_marker("quick"):
        pytest.fail(f"a quick test started {_started[0]}: mark it `process`, `ranks` or `ray`", pytrace=False)
    return result


def _watch_processes() -> None:
    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            _started.append(str(arguments[0]) if arguments else "a forked process")

    def spawn(path: Any, *arguments: Any) -> int:  # the one way that raises no audit event
        _started.append("a spawned process")
        return real(path, *arguments)

    sys.addaudithook(see)
    real, multiprocessing.util.spawnv_passfds = multiprocessing.util.spawnv_passfds, spawn  # type: ignore[attr-defined]


_watch_processes()


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=300 * 2**20,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def cuda() -> Any:
    """The torch device of the first GPU; tests that ask for it skip where there is none."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible: on a machine with one, `make gpu`")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is absent: put it at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder; tests that need it skip where it was not made."""
    folder = Path(__file__).parents[1] / ".real-model" / "SmolLM2-135M-Instruct"
    if not (folder / "config.json").exists():
        pytest.skip("no real model is there: run `make real-model`")
    return folder
