"""`make fuzz`: each target again and again, with new examples, for its share of FUZZ_MINUTES."""

import os
import time

import pytest

from tests.fuzz.limits import CAMPAIGN


def _is_target(item: pytest.Item) -> bool:
    return bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not CAMPAIGN or not _is_target(pyfuncitem):
        return None
    targets = sum(map(_is_target, pyfuncitem.session.items))
    until = time.monotonic() + float(os.environ["FUZZ_MINUTES"]) * 60 / targets
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    rounds = 0
    while rounds == 0 or time.monotonic() < until:
        pyfuncitem.obj(**arguments)
        rounds += 1
    print(f"\n{pyfuncitem.name}: {rounds} rounds")
    return True
