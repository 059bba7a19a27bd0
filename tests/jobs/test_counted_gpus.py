"""A job on GPUs that Ray counts and torch cannot use ends in one line, before any stage."""

import pytest
import ray

from ilm_ray.base.errors import UserError
from jobs.frame.cluster import check_gpus_work


def test_gpus_that_ray_alone_sees_are_refused(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    check_gpus_work()  # none is counted
    nodes = ray.nodes()
    for node in nodes:
        node["Resources"]["GPU"] = 8.0
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(UserError, match=r"Ray counts GPUs on .* that torch cannot use: .*; ") as refused:
        check_gpus_work()
    assert "\n" not in str(refused.value)
