"""The mitigation function, as deployed, against AWS IoT as moto plays it."""

import itertools
import json
import re

import pytest

from aws import GROUP, READ_SHADOW, WRITE_SHADOW
from events import new_id, rule, sns, violation

_names = itertools.count(1)


@pytest.fixture
def cam(aws):
    """A thing of its own for each test."""
    return aws.thing(f"cam-{next(_names)}")


def outcome(answers):
    kind, lines = answers[-1]
    assert kind == "response", answers
    return [line["outcome"] for line in lines]


def refusal(answer):
    kind, body = answer
    assert kind == "error", answer
    return body["errorMessage"]


# --- every event, both ways in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("envelope", [sns, rule])
def test_an_alarm_quarantines_shadow_first(aws, function, cam, envelope):
    alarm = violation(cam)
    assert outcome(function.deliver(envelope(alarm))) == ["quarantined"]
    demand = aws.desired(cam)
    assert demand == {"reason": f"EdgeWardenThings/BytesOut in alarm, violation {alarm['violationId']}"}
    assert aws.groups(cam) == ["Quarantine"]
    order = [call for call in aws.calls if re.search(f"{WRITE_SHADOW}|{GROUP}", call)]
    assert order == [f"POST /things/{cam}/shadow?name=quarantine", "PUT /thing-groups/updateThingGroupsForThing"]


def test_an_event_like_the_workshops(aws, start):
    """A cloud-side metric, another profile, compact JSON inside SNS, and the classic shadow."""
    function, cam = start(SHADOW_NAME="", THINGS="dev-*"), aws.thing("dev-IZWB")
    alarm = violation(cam, profile="MySecProfile", behavior="MessagesPub")
    alarm["behavior"] |= {"metric": "aws:num-messages-sent"}
    assert outcome(function.deliver(sns(alarm))) == ["quarantined"]
    assert aws.document(cam, None)["state"]["desired"] == {"quarantine": True}
    assert aws.groups(cam) == ["Quarantine"]


@pytest.mark.parametrize("kind", ["alarm-cleared", "alarm-invalidated"])
def test_the_end_of_an_alarm_never_quarantines(aws, function, cam, kind):
    """The workshop's function does."""
    assert outcome(function.deliver(sns(violation(cam, kind)))) == ["noted"]
    assert aws.desired(cam) is None and aws.groups(cam) == []


def test_clearing_leaves_the_quarantine_by_default(aws, function, cam):
    alarm = violation(cam)
    function.deliver(sns(alarm))
    assert outcome(function.deliver(sns(violation(cam, "alarm-cleared", alarm["violationId"])))) == ["noted"]
    assert aws.desired(cam) and aws.groups(cam) == ["Quarantine"]


def test_clearing_releases_where_configured(aws, start, cam):
    function = start(RELEASE_WHEN_CLEARED="true")
    first, second = violation(cam), violation(cam, behavior="DistinctDestinations")
    function.deliver(sns(first))
    function.deliver(rule(second))
    assert outcome(function.deliver(sns(violation(cam, "alarm-cleared", first["violationId"])))) == ["noted"]
    assert aws.groups(cam) == ["Quarantine"], "the second alarm still holds"
    assert outcome(function.deliver(sns(violation(cam, "alarm-cleared", second["violationId"])))) == ["released"]
    assert aws.desired(cam) is False and aws.groups(cam) == []


def test_silence_releases_nothing(aws, start, cam):
    function = start(RELEASE_WHEN_CLEARED="true")
    alarm = violation(cam)
    function.deliver(sns(alarm))
    assert outcome(function.deliver(sns(violation(cam, "alarm-invalidated", alarm["violationId"])))) == ["noted"]
    assert aws.desired(cam) and aws.groups(cam) == ["Quarantine"]


def test_several_records_in_one_event(aws, function):
    things = [aws.thing(f"cam-{next(_names)}") for _ in range(3)]
    assert outcome(function.deliver(sns(*map(violation, things)))) == ["quarantined"] * 3
    assert [aws.groups(thing) for thing in things] == [["Quarantine"]] * 3


# --- duplicates and order --------------------------------------------------------------------------------------------


def test_duplicates_change_nothing(aws, function, cam):
    alarm = violation(cam)
    function.deliver(sns(alarm))
    version = aws.document(cam)["version"]
    for envelope in [sns, rule, sns]:
        assert outcome(function.deliver(envelope(alarm))) == ["already handled"]
    assert outcome(function.deliver(sns(alarm, alarm))) == ["already handled"] * 2
    assert aws.document(cam)["version"] == version, "to the gateway another write would be news"
    assert aws.groups(cam) == ["Quarantine"]


def test_a_duplicate_does_not_undo_a_persons_release(aws, function, cam):
    alarm = violation(cam)
    function.deliver(sns(alarm))
    aws.write(cam, {"desired": {"quarantine": False}})
    aws.iot.remove_thing_from_thing_group(thingGroupName="Quarantine", thingName=cam)
    assert outcome(function.deliver(sns(alarm))) == ["already handled"]
    assert aws.desired(cam) is False and aws.groups(cam) == []
    assert outcome(function.deliver(sns(violation(cam)))) == ["quarantined"], "a new violation is a new matter"
    assert aws.groups(cam) == ["Quarantine"]


def test_an_alarm_that_arrives_after_its_end(aws, start, cam):
    function, violation_id = start(RELEASE_WHEN_CLEARED="true"), new_id()
    alarm, end = violation(cam, violation_id=violation_id), violation(cam, "alarm-cleared", violation_id)
    assert outcome(function.deliver(sns(end))) == ["noted"]
    assert outcome(function.deliver(sns(alarm))) == ["already over"]
    assert aws.desired(cam) is None and aws.groups(cam) == []


def test_the_gateways_own_report_is_no_obstacle(aws, function, cam):
    """Its answer in the same document is kept, and lies between the reading and the writing of the function."""
    aws.write(cam, {"reported": {"quarantine": False}})
    report = {"reported": {"quarantine": True, "quarantineStatus": {"enforced": True}}}
    aws.meanwhile(WRITE_SHADOW, lambda: aws.write(cam, report))
    assert outcome(function.deliver(sns(violation(cam)))) == ["quarantined"]
    assert len([call for call in aws.calls if re.search(WRITE_SHADOW, call)]) == 2, "one conflict, one success"
    reported = aws.document(cam)["state"]["reported"]
    assert reported["quarantineStatus"] == {"enforced": True} and aws.desired(cam)["reason"]


def test_a_release_between_shadow_and_group_takes_the_thing_out_again(aws, start, cam):
    function = start(RELEASE_WHEN_CLEARED="true")
    aws.meanwhile(GROUP, lambda: aws.write(cam, {"desired": {"quarantine": False}}))
    function.deliver(sns(violation(cam)))
    assert aws.desired(cam) is False and aws.groups(cam) == []


# --- what cannot be done ---------------------------------------------------------------------------------------------


def test_an_unknown_thing_ends_as_a_dead_letter(aws, function):
    event = sns(violation("cam-never-registered"))
    answers = function.deliver(event)
    assert len(answers) == 3 and "ResourceNotFoundException" in refusal(answers[0])
    assert "cam-never-registered" in refusal(answers[0])
    assert function.dead_letters == [event]


def test_a_missing_group_is_said_and_the_shadow_is_written(aws, start, cam):
    """The workshop's function writes no shadow then."""
    function = start(THING_GROUP="NoSuchGroup")
    answers = function.deliver(sns(violation(cam)))
    assert "UpdateThingGroupsForThing" in refusal(answers[-1]) and len(function.dead_letters) == 1
    assert aws.desired(cam)["reason"]


def test_a_failure_half_way_is_finished_by_the_retry(aws, function, cam):
    alarm = violation(cam)
    aws.fail(GROUP, "UnauthorizedException", 401, times=1)
    answers = function.deliver(sns(alarm))
    assert "UnauthorizedException" in refusal(answers[0])
    assert outcome(answers) == ["already handled"] and len(answers) == 2
    assert aws.groups(cam) == ["Quarantine"] and function.dead_letters == []
    assert len([call for call in aws.calls if re.search(WRITE_SHADOW, call)]) == 1


def test_a_failure_half_way_of_a_release_is_finished_by_the_retry(aws, start, cam):
    function, alarm = start(RELEASE_WHEN_CLEARED="true"), violation(cam)
    function.deliver(sns(alarm))
    aws.fail(GROUP, "UnauthorizedException", 401, times=1)
    answers = function.deliver(sns(violation(cam, "alarm-cleared", alarm["violationId"])))
    assert [kind for kind, _ in answers] == ["error", "response"]
    assert aws.desired(cam) is False and aws.groups(cam) == []


def test_one_bad_record_hides_no_other(aws, function, cam):
    other = aws.thing(f"cam-{next(_names)}")
    event = sns("{", violation(cam), violation("elsewhere-1"), violation(other))
    answers = function.deliver(event)
    assert "no violation event" in refusal(answers[0]) and "elsewhere-1" in refusal(answers[0])
    assert aws.groups(cam) == aws.groups(other) == ["Quarantine"]
    assert function.dead_letters == [event]


@pytest.mark.parametrize("call", [READ_SHADOW, WRITE_SHADOW, GROUP])
def test_throttling_for_a_moment_is_sat_out(aws, function, cam, call):
    aws.fail(call, "ThrottlingException", 429, times=2)
    answers = function.deliver(sns(violation(cam)))
    assert len(answers) == 1 and outcome(answers) == ["quarantined"]
    assert aws.groups(cam) == ["Quarantine"]


@pytest.mark.parametrize("call", [READ_SHADOW, WRITE_SHADOW, GROUP])
def test_throttling_that_lasts_is_left_to_lambda(aws, function, cam, call):
    event = sns(violation(cam))
    aws.fail(call, "ThrottlingException", 429)
    assert "ThrottlingException" in refusal(function.invoke(event))
    aws.heal()
    assert function.invoke(event)[0] == "response", "the next attempt, or a person who replays the dead letter"
    assert aws.desired(cam) and aws.groups(cam) == ["Quarantine"]


def test_a_shadow_that_never_stands_still_fails_the_invocation(aws, function, cam):
    aws.write(cam, {"reported": {"quarantine": False}})
    aws.fail(WRITE_SHADOW, "ConflictException", 409)
    assert "another version" in refusal(function.invoke(sns(violation(cam))))
    assert aws.groups(cam) == [], "shadow first"


NO_ALARMS = {
    "nothing": {},
    "a list": [],
    "a text": "text",
    "no records": {"Records": []},
    "of S3": {"Records": [{"eventSource": "aws:s3"}]},
    "an empty message": sns(""),
    "null": sns("null"),
    "a thing and no more": sns({"thingName": "cam-1"}),
    "an unknown type": sns({**violation("cam-1"), "violationEventType": "alarm-of-tomorrow"}),
    "a path for a thing": sns({**violation("cam-1"), "thingName": "../cam-1"}),
    "an empty thing": sns({**violation("cam-1"), "thingName": ""}),
    "a time before time": sns({**violation("cam-1"), "violationEventTime": -1}),
}


@pytest.mark.parametrize("event", NO_ALARMS.values(), ids=NO_ALARMS.keys())
def test_what_is_no_alarm_changes_nothing_and_is_not_lost(aws, function, event):
    function.deliver(event)
    assert function.dead_letters == [event]
    assert aws.calls == []


# --- settings --------------------------------------------------------------------------------------------------------


def test_things_of_others_are_not_touched(aws, function):
    aws.thing("plc-1")
    assert "neither THINGS nor CORES" in refusal(function.deliver(sns(violation("plc-1")))[0])
    assert aws.calls == []


def test_a_core_gets_the_shadow_but_never_the_group(aws, function):
    """The group's policy would take the cloud from the whole site, releases included."""
    core = aws.thing("gateway-1")
    assert outcome(function.deliver(sns(violation(core)))) == ["quarantined"]
    assert aws.desired(core) and aws.groups(core) == []


def test_only_the_named_alarms_quarantine(aws, start, cam):
    function = start(ALARMS="EdgeWardenThings/BytesOut, Other/*")
    assert outcome(function.deliver(sns(violation(cam, behavior="DistinctDestinations")))) == ["not among ALARMS"]
    assert aws.calls == []
    assert outcome(function.deliver(sns(violation(cam, profile="Other", behavior="Any")))) == ["quarantined"]


def test_mode_and_end_in_time(aws, start, cam):
    function = start(MODE="remediate", QUARANTINE_SECONDS="3600")
    function.deliver(sns(violation(cam)))
    demand = aws.desired(cam)
    assert demand["mode"] == "remediate" and demand["until"] > 1_700_000_000
    aws.write(cam, {"desired": {"quarantine": {"until": 1_700_000_000}}})
    assert outcome(function.deliver(sns(violation(cam)))) == ["quarantined"]
    assert aws.desired(cam)["until"] >= demand["until"], "what ran out begins anew"


def test_without_a_group_only_the_shadow_is_written(aws, start, cam):
    start(THING_GROUP="").deliver(sns(violation(cam)))
    assert aws.desired(cam) and aws.groups(cam) == []


@pytest.mark.parametrize("settings", [{"THINGS": ""}, {"MODE": "freeze"}, {"SHADOW_NAME": "", "MODE": "isolate"}], ids=str)
def test_settings_that_make_no_sense_stop_the_function_at_its_start(start, settings):
    status, log = start(**settings).ended()
    assert status != 0 and next(iter(settings)) in log, log


def test_the_log_says_what_was_done_without_the_events_text(aws, function, cam):
    function.deliver(sns(violation(cam)))
    function.close()
    status, log = function.ended()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [(line["thing"], line["outcome"], line["inGroup"]) for line in lines] == [(cam, "quarantined", True)]
