"""What several modules rely on: a stock workstation, and a site that sends everything there."""

import pytest

from tests.support.peers.dcmtk import Workstation
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.site import Site


@pytest.fixture(scope="module")
def workstation(tmp_path_factory):
    with Workstation(tmp_path_factory.mktemp("ws1"), free_port()) as peer:
        yield peer


@pytest.fixture(scope="module")
def site(tmp_path_factory, workstation):
    with Site(tmp_path_factory.mktemp("site"), destination("ws1", workstation.port)) as running:
        yield running
