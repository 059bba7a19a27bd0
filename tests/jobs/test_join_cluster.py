"""What an address of a cluster is tried with before Ray tries it for a quarter of an hour."""

import socket
from unittest.mock import MagicMock

import pytest

from ilm_ray.base.errors import UserError
from jobs.frame.cluster import join_cluster


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """In the place of ray.init: whether Ray was asked is what these tests are about."""
    init = MagicMock()
    monkeypatch.setattr("ray.init", init)
    return init


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_ray_is_asked_only_where_something_answers(
    family: socket.AddressFamily, init: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, written = ("127.0.0.1", "127.0.0.1") if family == socket.AF_INET else ("::1", "[::1]")
    with socket.socket(family) as port:
        try:
            port.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {family.name} on loopback here: {error}")
        monkeypatch.setenv("RAY_ADDRESS", f"{written}:{port.getsockname()[1]}")
        with pytest.raises(UserError, match=r"RAY_ADDRESS=.+ \(Connection refused\)"):
            join_cluster()
        init.assert_not_called()
        port.listen()
        join_cluster(namespace="mine")
    assert init.call_args.kwargs["namespace"] == "mine"


@pytest.mark.parametrize("address", ["auto", "ray://nowhere.invalid:10001", "localhost"])
def test_what_is_no_host_and_port_is_left_to_ray(
    address: str, init: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    join_cluster()
    init.assert_called_once()
