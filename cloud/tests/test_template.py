"""The template: AWS's linter, our own rules, conditions both ways, and the policies against the topics in use."""

import fnmatch
import itertools
import json
import os
import re
import subprocess
import sys

import pytest

import rules
import template
from template import Rendered

MITIGATION = template.ROOT / "cloud" / "mitigation" / "src"
CALLS, SETTINGS = (MITIGATION / "aws.rs").read_text(), (MITIGATION / "settings.rs").read_text()
DETECT = {"UseDetect": ["false", "true"]}
CHOICES = {
    **DETECT,
    "ShadowName": ["quarantine", ""],
    "DeployComponent": ["false", "true"],
    "OperatorEmail": ["", "somebody@example.com"],
}
EVERY_CHOICE = [dict(zip(CHOICES, values)) for values in itertools.product(*CHOICES.values())]


def test_cfn_lint_has_no_complaint():
    linter = os.path.join(os.path.dirname(sys.executable), "cfn-lint")
    done = subprocess.run([linter, "--include-checks", "I", "--regions", "us-east-1", "eu-central-1", "--", template.PATH],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("choice", EVERY_CHOICE, ids=str)
def test_our_rules_have_no_complaint(choice):
    assert rules.check(Rendered(**choice), CALLS, SETTINGS) == []


def test_the_longest_parameters_still_make_policies_aws_takes(monkeypatch):
    monkeypatch.setitem(template.PSEUDO, "AWS::Region", "ap-southeast-1")
    longest = {"CoreThings": "g" * 39 + "*", "LocalThings": "c" * 39 + "*", "ShadowName": "s" * 32}
    parameters = template.load()["Parameters"]
    for name, value in longest.items():
        assert re.search(parameters[name]["AllowedPattern"], value), name
        assert not re.search(parameters[name]["AllowedPattern"], value + value[0]), f"{name} could be longer"
    for detect in ["false", "true"]:
        assert rules.check(Rendered(UseDetect=detect, **longest), CALLS, SETTINGS) == []


# Each mutation, by the words of the rule that must see it.
def _allow_all(t):
    t["Resources"]["CorePolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Resource"] = "*"


def _all_things(t):
    statement = t["Resources"]["CorePolicy"]["Properties"]["PolicyDocument"]["Statement"][0]
    statement["Resource"] = "arn:aws:iot:us-east-1:1:topic/$aws/things/*/defender/metrics/json"


def _all_actions(t):
    t["Resources"]["MitigationRolePolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Action"] = "iot:*"


def _workshops_resource(t):
    statement = t["Resources"]["MitigationRolePolicy"]["Properties"]["PolicyDocument"]["Statement"][1]
    statement["Resource"] = "arn:aws:iot:us-east-1:123456789012:thing/*"


def _one_more_action(t):
    t["Resources"]["MitigationRolePolicy"]["Properties"]["PolicyDocument"]["Statement"][1]["Action"].append("iot:DeleteThing")


def _core_in_group(t):
    statement = t["Resources"]["MitigationRolePolicy"]["Properties"]["PolicyDocument"]["Statement"][1]
    statement["Resource"][0] = "arn:aws:iot:us-east-1:123456789012:thing/gateway-1"


def _other_shadow(t):
    shadows = t["Resources"]["MitigationRolePolicy"]["Properties"]["PolicyDocument"]["Statement"][0]
    shadows["Resource"] = "arn:aws:iot:us-east-1:123456789012:thing/cam-*/config"


def _confused_deputy(t):
    del t["Resources"]["DetectRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]


def _open_queue(t):
    del t["Resources"]["ViolationsMayLeaveDeadLetters"]["Properties"]["PolicyDocument"]["Statement"][0]["Condition"]


def _any_topic(t):
    del t["Resources"]["ViolationsMayInvoke"]["Properties"]["SourceArn"]


def _behavior(**criteria):
    def mutate(t):
        t["Resources"]["LocalThingsProfile"]["Properties"]["Behaviors"][0]["Criteria"].update(criteria)

    return mutate


def _unknown_metric(t):
    t["Resources"]["LocalThingsProfile"]["Properties"]["Behaviors"][1]["Metric"] = "of_nobody"


def _no_dead_letters(t):
    del t["Resources"]["Mitigation"]["Properties"]["DeadLetterConfig"]


def _forgotten_variable(t):
    del t["Resources"]["Mitigation"]["Properties"]["Environment"]["Variables"]["ALARMS"]


def _merciful(t):
    t["Resources"]["QuarantinePolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Action"].remove("iot:Publish")


def _long_names(t):
    policy = t["Resources"]["CorePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    policy += [{"Effect": "Allow", "Action": "iot:Publish", "Resource": f"arn:aws:iot:r:1:topic/{'n' * 700}"}]


MUTATIONS = [
    (_allow_all, "CorePolicy: allows iot:Publish on \\*"),
    (_all_things, "CorePolicy: allows iot:Publish on .*things/\\*"),
    (_all_actions, "allows iot:\\*"),
    (_workshops_resource, "on arn:aws:iot:us-east-1:123456789012:thing/\\*"),
    (_one_more_action, "iot:DeleteThing"),
    (_core_in_group, "a core could be put into the group"),
    (_other_shadow, "not the shadow of the parameters"),
    (_confused_deputy, "for any account"),
    (_open_queue, "anybody may write"),
    (_any_topic, "any source may invoke"),
    (_behavior(DurationSeconds=301), "durationSeconds 301"),
    (_behavior(ComparisonOperator="greater-than"), "as a cut one is"),
    (_behavior(Value={"Number": 1}), "is a Count"),
    (_behavior(ConsecutiveDatapointsToClear=11), "ConsecutiveDatapointsToClear"),
    (_unknown_metric, "nothing reports of_nobody"),
    (_no_dead_letters, "no dead-letter queue"),
    (_forgotten_variable, "ALARMS"),
    (_merciful, "QuarantinePolicy"),
    (_long_names, "AWS IoT takes 2048"),
]


@pytest.mark.parametrize("mutate, complaint", MUTATIONS, ids=lambda m: getattr(m, "__name__", ""))
def test_each_rule_sees_what_it_is_for(mutate, complaint):
    mutated = template.load()
    mutate(mutated)
    complaints = rules.check(Rendered(mutated, UseDetect="true"), CALLS, SETTINGS)
    assert any(re.search(complaint, text) for text in complaints), complaints


# --- conditions ------------------------------------------------------------------------------------------------------


def test_detect_is_left_out_whole_and_replaced_by_the_rule():
    without, with_detect = Rendered(UseDetect="false"), Rendered(UseDetect="true")
    only_with = set(with_detect.resources) - set(without.resources)
    only_without = set(without.resources) - set(with_detect.resources)
    assert {with_detect.resources[name]["Type"] for name in only_with} == {
        "AWS::SNS::Topic", "AWS::SNS::Subscription", "AWS::Lambda::Permission", "AWS::SQS::QueuePolicy",
        "AWS::IAM::Role", "AWS::IoT::CustomMetric", "AWS::IoT::SecurityProfile",
    }  # fmt: skip
    assert {without.resources[name]["Type"] for name in only_without} == {
        "AWS::IoT::TopicRule", "AWS::Lambda::Permission", "AWS::IAM::Role",
    }  # fmt: skip
    detect_only = {"AWS::IoT::SecurityProfile", "AWS::IoT::CustomMetric", "AWS::IoT::Dimension"}
    assert not detect_only & {resource["Type"] for resource in without.resources.values()}


def test_other_conditions_both_ways():
    assert "Deployment" in Rendered(DeployComponent="true").resources
    assert "Deployment" not in Rendered().resources
    assert "OperatorsByEmail" in Rendered(OperatorEmail="a@example.com").resources
    assert "OperatorsByEmail" not in Rendered().resources
    assert "LocalThingsPolicy" in Rendered().resources
    assert "LocalThingsPolicy" not in Rendered(ShadowName="").resources


# --- policies against topics -----------------------------------------------------------------------------------------


def allowed(rendered, policy, action, resource):
    """Whether an IoT policy of the template allows it."""
    return permits(rendered.resources[policy]["Properties"]["PolicyDocument"], action, resource)


def permits(document, action, resource):
    """Whether a policy allows it: Deny wins, `*` spans slashes (AWS IoT, "Action resources")."""
    statements = document["Statement"]
    wanted = template.arn("iot", resource)
    fits = lambda pattern: fnmatch.fnmatchcase(wanted, pattern.replace("[", "[[]"))
    hit = [s["Effect"] for s in statements
           if action in rules.listed(s["Action"]) and any(map(fits, rules.listed(s["Resource"])))]  # fmt: skip
    return "Deny" not in hit and "Allow" in hit


def test_the_core_may_do_what_the_component_does_and_for_no_other_thing():
    rendered = Rendered()
    may = lambda action, resource: allowed(rendered, "CorePolicy", action, resource)
    for thing, ours in [("gateway-1", True), ("cam-7", True), ("plc-1", False), ("gateway-10", False)]:
        for topic in ["defender/metrics/json", "defender/metrics/cbor", "shadow/name/quarantine/get",
                      "shadow/name/quarantine/update"]:  # fmt: skip
            assert may("iot:Publish", f"topic/$aws/things/{thing}/{topic}") == ours, (thing, topic)
        for topic in ["defender/metrics/json/accepted", "defender/metrics/cbor/rejected",
                      "shadow/name/quarantine/get/accepted", "shadow/name/quarantine/update/accepted"]:  # fmt: skip
            assert may("iot:Receive", f"topic/$aws/things/{thing}/{topic}") == ours, (thing, topic)
    assert may("iot:Publish", "topic/edge-warden/gateway-1/violations")
    assert not may("iot:Publish", "topic/edge-warden/gateway-2/violations")
    assert not may("iot:Publish", "topic/$aws/things/cam-7/shadow/name/quarantine/delete")
    assert not may("iot:Publish", "topic/$aws/things/cam-7/shadow/update"), "the classic one is not in use"
    # exact while they are few, wildcards beyond (src/agent/shadows)
    for filter_ in ["cam-7/shadow/name/quarantine/+/accepted", "+/shadow/name/quarantine/+/rejected",
                    "+/defender/metrics/json/accepted"]:  # fmt: skip
        assert may("iot:Subscribe", f"topicfilter/$aws/things/{filter_}"), filter_
    classic = Rendered(ShadowName="")
    assert allowed(classic, "CorePolicy", "iot:Publish", "topic/$aws/things/cam-7/shadow/update")
    assert not allowed(classic, "CorePolicy", "iot:Publish", "topic/$aws/things/cam-7/shadow/name/quarantine/update")


def granted_topics():
    """What the recipe lets the component do with AWS IoT: IoT action, kind of resource and topic, things written out."""
    proxy = template.recipe()["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    both = {"PublishToIoTCore": "iot:Publish", "SubscribeToIoTCore": "iot:Subscribe"}
    for grant in proxy["aws.greengrass.ipc.mqttproxy"].values():
        for operation, topic in itertools.product(grant["operations"], grant["resources"]):
            action = both[operation.removeprefix("aws.greengrass#")]
            kind = "topic" if action == "iot:Publish" else "topicfilter"
            if topic.startswith("edge-warden/"):
                topic = topic.replace("*", "gateway-1", 1)
            yield action, kind, topic.replace("things/*", "things/cam-7", 1)


def test_every_topic_the_recipe_grants_is_one_the_policy_knows():
    """A topic the component may use with the nucleus, but not with AWS IoT, would fail on a hardened core only."""
    granted = list(granted_topics())
    assert len(granted) >= 10
    for action, kind, topic in granted:
        rendered = Rendered(ShadowName="quarantine" if "/name/" in topic else "")
        topic = topic.replace("/name/*", "/name/quarantine")
        assert allowed(rendered, "CorePolicy", action, f"{kind}/{topic}"), (action, topic)


def documented_policies():
    """The policies of docs/security.md, in their order: core device, client device, who quarantines from the cloud."""
    page = (template.ROOT / "docs" / "security.md").read_text()
    blocks = re.findall(r"^```json\n(.*?)^```", page, re.S | re.M)
    filled = (b.replace("REGION", "us-east-1").replace("ACCOUNT", "123456789012").replace("CORE_THING_NAME", "gateway-1")
              for b in blocks)  # fmt: skip
    policies = [json.loads(block) for block in filled if '"Version"' in block]
    assert len(policies) == 3
    return policies


def test_the_documented_policies_are_enough_and_close_what_they_say():
    core, device, person = documented_policies()
    for action, kind, topic in granted_topics():
        topic = topic.replace("/name/*", "/name/quarantine")
        assert permits(core, action, f"{kind}/{topic}"), (action, topic)
    assert not permits(core, "iot:Publish", "topic/edge-warden/gateway-2/violations")
    assert device["Statement"] == Rendered().resources["LocalThingsPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    may = lambda action, thing: permits(person, action, f"thing/{thing}")
    for action in ["iot:GetThingShadow", "iot:UpdateThingShadow"]:
        assert may(action, "gateway-1-cam/quarantine")
        assert not may(action, "gateway-1-cam") and not may(action, "other/quarantine")


def test_no_device_writes_the_shadow_that_decides_over_it():
    rendered = Rendered()
    policy = rendered.resources["LocalThingsPolicy"]["Properties"]["PolicyDocument"]
    # beside what devices are usually given
    policy["Statement"] += [
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": template.arn("iot", "topic/*")},
        {"Effect": "Allow", "Action": "iot:UpdateThingShadow", "Resource": template.arn("iot", "thing/*")},
    ]
    may = lambda action, resource: allowed(rendered, "LocalThingsPolicy", action, resource)
    for verb in ["update", "delete"]:
        assert not may("iot:Publish", f"topic/$aws/things/cam-7/shadow/name/quarantine/{verb}")
    assert not may("iot:UpdateThingShadow", "thing/cam-7/quarantine")
    assert may("iot:Publish", "topic/$aws/things/cam-7/shadow/update"), "its own documents stay its own"
    assert may("iot:Publish", "topic/$aws/things/cam-7/shadow/name/config/update")
    assert may("iot:UpdateThingShadow", "thing/cam-7")


def test_the_rule_hears_what_gateways_publish():
    sql = Rendered().resources["EdgeViolations"]["Properties"]["TopicRulePayload"]["Sql"]
    filter_ = re.search(r"FROM '(.*)'$", sql)[1]
    core, expected = "gateway-1", "edge-warden/gateway-1/violations"
    assert filter_.replace("+", core) == expected and filter_.split("/").index("+") == 1, "topic(2) is the core"
    source = (template.ROOT / "src" / "greengrass" / "topic.rs").read_text()
    assert 'format!("edge-warden/{core}/violations")' in source


# --- the component's configuration -----------------------------------------------------------------------------------


def deployed(**choice):
    """The configuration the deployment gives the component."""
    components = Rendered(DeployComponent="true", **choice).resources["Deployment"]["Properties"]["Components"]
    return json.loads(components[template.recipe()["ComponentName"]]["ConfigurationUpdate"]["Merge"])


@pytest.mark.parametrize("detect", ["false", "true"])
@pytest.mark.parametrize("shadow", ["quarantine", "q", ""])
def test_the_deployed_configuration_is_one_the_component_takes(shadow, detect, tmp_path):
    merge = deployed(ShadowName=shadow, UseDetect=detect)
    named = merge["quarantine"]["shadow"]
    assert (named["named"], named["classic"]) == (shadow, shadow == ""), "the gateway reads what the function writes"
    file = tmp_path / "config.json"
    file.write_text(json.dumps(merge))
    done = subprocess.run([os.environ["EDGE_WARDEN_BINARY"], "check-config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (merge["customMetrics"], merge["detect"]["profiles"]):
        assert len(json.dumps(part, separators=(",", ":"))) <= 1024, "what nucleus lite keeps of a list"


def test_the_gateway_judges_as_detect_would():
    parameters = {"MaxBytesOut": 7, "MaxUnansweredConnections": 8, "MaxDistinctDestinations": 9}
    profile = Rendered(UseDetect="true", **parameters).resources["LocalThingsProfile"]["Properties"]
    (here,) = deployed(UseDetect="false", **parameters)["detect"]["profiles"]
    camel = lambda value: (
        {key[0].lower() + key[1:]: camel(item) for key, item in value.items()} if isinstance(value, dict)
        else [camel(item) for item in value] if isinstance(value, list)
        else int(value) if str(value).isdigit() else value
    )  # fmt: skip
    assert here["profile"]["securityProfileName"] == profile["SecurityProfileName"]
    assert here["profile"]["behaviors"] == camel(profile["Behaviors"])
    assert (here["targets"], here["onAlarm"]) == (["cam-*"], "report"), "it is the function that acts"
    assert deployed(UseDetect="true")["detect"]["profiles"] == []


def test_the_gateway_measures_what_profiles_name():
    metrics = {metric["name"] for metric in deployed(UseDetect="true")["customMetrics"]}
    created = Rendered(UseDetect="true").of("AWS::IoT::CustomMetric").values()
    assert metrics == {metric["MetricName"] for metric in created}


# --- words -----------------------------------------------------------------------------------------------------------


def test_every_parameter_is_described_grouped_and_documented():
    loaded = template.load()
    groups = loaded["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(loaded["Parameters"])
    page = (template.ROOT / "docs" / "cloud.md").read_text()
    for name, parameter in loaded["Parameters"].items():
        assert parameter["Description"], name
        assert f"| `{name}` |" in page, f"docs/cloud.md does not explain {name}"
        default = parameter.get("Default")
        if default not in (None, ""):
            row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
            assert f"`{default}`" in row, row
