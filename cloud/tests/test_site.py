"""From an alarm to a cut device: the function as deployed, AWS IoT as moto plays it, the agent on a site's gateway.

Between moto and the agent's embedded stand-in stands `carry`, which does what AWS IoT Core's topics do: the shadow's
desired part goes to the gateway, the reported part comes back.
"""

import json
import pathlib

import pytest

import template
from aws import GROUP
from events import rule, sns
from gateway_site import Site, until

SHADOW = "quarantine"
ALARMS = pathlib.Path(__file__).parent / "alarms"


@pytest.fixture
def deployed():
    """The template as deployed: what the function and the component are configured with comes from it."""
    return template.Rendered(
        CoreThings="edge-warden-core", DeployComponent="true", ReleaseWhenCleared="true", MaxBytesOut=1_000_000
    )


@pytest.fixture
def site(aws, deployed):
    component = deployed.resources["Deployment"]["Properties"]["Components"]["dev.edgewarden.EdgeWarden"]
    configuration = json.loads(component["ConfigurationUpdate"]["Merge"])
    site = Site({**configuration, "sampleSeconds": 2})
    for thing in site.things:
        aws.thing(thing)
    yield site
    site.close()


@pytest.fixture
def mitigation(start, deployed):
    variables = deployed.resources["Mitigation"]["Properties"]["Environment"]["Variables"]
    return start(**variables)


class Shim:
    """AWS IoT Core's topics between the cloud's shadow and the gateway's."""

    def __init__(self, aws, site, thing):
        self.aws, self.site, self.thing = aws, site, thing
        self._carried = 0

    def carry(self):
        """Once in each direction. Gives the cloud's reported state afterwards."""
        demands = self.aws.demands.count(self.thing)
        document = self.aws.document(self.thing, SHADOW) or {"state": {}}
        if demands > self._carried:
            self.site.cli("shadow", self.thing, json.dumps(document["state"]["desired"]), "--name", SHADOW)
            self._carried = demands
        here = self.site.shadow(self.thing, SHADOW)["state"].get("reported", {})
        there = document["state"].get("reported", {})
        ours = ("quarantine", "quarantineStatus")
        change = {key: here.get(key) for key in ours if here.get(key) != there.get(key)}
        if change:
            self.aws.write(self.thing, {"reported": change}, SHADOW)
        return there | change

    def until_enforced(self, enforced):
        """Carry until the cloud's shadow says so."""
        said = lambda: (self.carry().get("quarantineStatus") or {}).get("enforced") is enforced
        assert until(said), f"{self.aws.document(self.thing, SHADOW)}\n{self.site.log()}"


def alarm(name, thing):
    """A violation event from a file; the thing is filled in."""
    return {**json.loads((ALARMS / f"{name}.json").read_text()), "thingName": thing}


@pytest.mark.parametrize("envelope", [sns, rule])
def test_an_alarm_cuts_a_device_off_and_its_end_lets_it_go(aws, mitigation, site, envelope):
    thing, neighbour = site.things
    cloud = Shim(aws, site, thing)
    assert site.open(0) and site.open(1), site.log()

    deliver = lambda name: mitigation.deliver(envelope(alarm(name, thing)))
    assert deliver("flood-in-alarm")[-1][0] == "response"
    assert aws.groups(thing) == ["Quarantine"] and aws.groups(neighbour) == []
    cloud.until_enforced(True)
    assert aws.document(thing)["state"]["reported"]["quarantineStatus"]["causes"] == [f"shadow:{SHADOW}"]
    assert site.cut(0), "the device is off, to its neighbour too"
    assert site.undisturbed(1), site.log()

    # The same alarm again, after an operator on the gateway ended the quarantine: nothing comes back.
    site.cli("quarantine", "release", thing)
    cloud.until_enforced(False)
    assert deliver("flood-in-alarm")[-1][1][0]["outcome"] == "already handled"
    cloud.carry()
    assert site.open(0), site.log()

    # Another violation cuts it off again, and its end lets it go.
    assert deliver("scan-in-alarm")[-1][0] == "response"
    cloud.until_enforced(True)
    assert site.cut(0)
    for name in ["flood-cleared", "scan-cleared"]:
        assert deliver(name)[-1][0] == "response"
    assert aws.groups(thing) == []
    cloud.until_enforced(False)
    assert site.open(0), site.log()
    assert mitigation.dead_letters == []


def test_the_device_is_cut_even_when_the_group_cannot_be_changed(aws, mitigation, site):
    """Shadow first: what protects the site does not wait for what tidies the registry."""
    aws.fail(GROUP, "ServiceUnavailableException", 503)
    answer = mitigation.invoke(sns(alarm("flood-in-alarm", site.things[1])))
    assert answer[0] == "error", answer
    assert site.open(1), site.log()
    Shim(aws, site, site.things[1]).until_enforced(True)
    assert site.cut(1) and site.undisturbed(0)


def test_a_flood_is_noticed_reported_and_cut_off(aws, mitigation, site):
    """The whole way: packets, the gateway's own detection, the IoT rule, the function, the shadow, the cut."""
    thing, neighbour = site.things
    cloud = Shim(aws, site, thing)
    assert site.open(0) and site.open(1), site.log()
    assert site.published("/violations") == []
    assert site.until_sampled(), "a device is watched from its first sample on"

    site.flood(0, 3_000_000)
    assert until(lambda: site.published("/violations")), site.log()
    (event,) = site.published("/violations")
    assert (event["thingName"], event["violationEventType"]) == (thing, "in-alarm")
    assert event["behavior"]["name"] == "BytesOut" and event["metricValue"]["count"] > 1_000_000
    assert mitigation.deliver(rule(event, core="edge-warden-core"))[-1][0] == "response"
    cloud.until_enforced(True)
    assert site.cut(0) and aws.groups(thing) == ["Quarantine"]
    assert site.undisturbed(1), site.log()
