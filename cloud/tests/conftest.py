"""What the tests share."""

import pytest

from aws import Aws
from lambda_service import Function, binary, environment


@pytest.fixture(scope="session")
def services():
    """The services, started once; with the group the template makes."""
    services = Aws()
    services.iot.create_thing_group(thingGroupName="Quarantine")
    yield services
    services.close()


@pytest.fixture
def aws(services):
    """The services without faults."""
    services.heal()
    yield services
    services.heal()


@pytest.fixture
def start(aws):
    """Starts functions with other settings; they end with the test."""
    running = []

    def start(**settings):
        running.append(Function(binary(), environment(aws.endpoint, **settings)))
        return running[-1]

    yield start
    for function in running:
        function.close()


@pytest.fixture
def function(start):
    """The function with the template's defaults."""
    return start()
