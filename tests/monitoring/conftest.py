"""One server that keeps statistics, and one shop on it that Prometheus watches, for all tests of the folder."""

import pytest

from dev.server import Server
from servers import PG, assert_nothing_crashed
from watched import watch_shop


@pytest.fixture(scope="session")
def statistics_server():
    """Before 17 the memory for statistics is there only if the library is preloaded."""
    preload = {"shared_preload_libraries": "inventory_ext"} if PG == "15" else {}
    with Server(pg=PG, settings=preload) as server:
        yield server
        assert_nothing_crashed(server)


@pytest.fixture(scope="session")
def watched(statistics_server):
    with watch_shop(statistics_server) as found:
        yield found
