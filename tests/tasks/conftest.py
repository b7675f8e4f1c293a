"""What the tests of executors share."""

import pytest
from support.tasks import Recording

from ana.tasks import depot


@pytest.fixture(autouse=True)
def _no_depot_is_left():
    """Let go of the stores that this process, as a worker, has opened for tasks."""
    yield
    depot._by_home.clear()


@pytest.fixture
def recording():
    """An executor that runs tasks in this process, in a thread, and notes what was sent and came back."""
    with Recording(2) as pool:
        yield pool
