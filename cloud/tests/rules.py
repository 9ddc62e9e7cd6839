"""Our own rules for the template, where cfn-lint has none. Each gives its complaints as text."""

import json
import re

# AWS IoT Core quotas: characters of a policy document without white space.
MAX_IOT_POLICY = 2048

# Device Defender Detect, "Behaviors": durationSeconds of metrics that have one.
DURATIONS = {300, 600, 900, 1800, 3600}
DEVICE_METRICS = {
    "aws:all-bytes-out", "aws:all-bytes-in", "aws:all-packets-out", "aws:all-packets-in",
    "aws:num-listening-tcp-ports", "aws:num-listening-udp-ports", "aws:num-established-tcp-connections",
    "aws:listening-tcp-ports", "aws:listening-udp-ports", "aws:destination-ip-addresses",
}  # fmt: skip
COUNTED = {metric for metric in DEVICE_METRICS if ":all-" in metric or ":num-" in metric}

# Wildcards over things of others, each with its reason.
JUSTIFIED = {
    ("CorePolicy", "iot:Subscribe"): "wildcard filters are asked for as such; iot:Receive limits what is delivered",
}

DATA_PLANE = {
    "iot:Connect", "iot:Publish", "iot:Receive", "iot:RetainPublish", "iot:Subscribe", "iot:GetThingShadow",
    "iot:UpdateThingShadow", "iot:DeleteThingShadow", "iot:ListNamedShadowsForThing", "greengrass:Discover",
}  # fmt: skip

# What the function calls, and what AWS wants allowed for it.
NEEDS = {
    "get_thing_shadow": {"iot:GetThingShadow"},
    "update_thing_shadow": {"iot:UpdateThingShadow"},
    "update_thing_groups_for_thing": {
        "iot:UpdateThingGroupsForThing", "iot:AddThingToThingGroup", "iot:RemoveThingFromThingGroup",
    },
}  # fmt: skip


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(rendered):
    """(resource, statement) of every policy: IoT, IAM, queue."""
    for name, resource in rendered.resources.items():
        properties = resource["Properties"]
        documents = [properties[key] for key in ("PolicyDocument",) if key in properties]
        documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        for document in documents:
            for statement in document["Statement"]:
                yield name, statement


def wildcards(rendered):
    for name, statement in statements(rendered):
        if statement["Effect"] == "Deny":
            continue
        for action in listed(statement["Action"]):
            if "*" in action:
                yield f"{name}: allows {action}"
        for resource in listed(statement["Resource"]):
            open_ended = resource == "*" or re.search(r"(^|[:/])\*(/|$)", beginning(resource))
            reasons = [JUSTIFIED.get((name, action)) for action in listed(statement["Action"])]
            if open_ended and not all(reasons):
                yield f"{name}: allows {', '.join(listed(statement['Action']))} on {resource}"


def beginning(resource):
    """The ARN up to the thing's name; what follows is below that thing."""
    match = re.match(r"(arn:.*?:(?:topic/\$aws/things/|thing/|topic/edge-warden/)[^/]+)/", resource)
    if match:
        return match[1]
    # a log group's streams are addressed as its ARN with :* behind it
    return resource.removesuffix(":*") if ":log-group:" in resource else resource


def trust(rendered):
    for name, role in rendered.of("AWS::IAM::Role").items():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            service = statement["Principal"].get("Service")
            if service != "lambda.amazonaws.com" and "Condition" not in statement:
                yield f"{name}: {service} may take the role for any account"
    for name, permission in rendered.of("AWS::Lambda::Permission").items():
        if "SourceArn" not in permission:
            yield f"{name}: any source may invoke the function"
    for name, policy in rendered.of("AWS::SQS::QueuePolicy").items():
        for statement in policy["PolicyDocument"]["Statement"]:
            if "Condition" not in statement:
                yield f"{name}: anybody may write into the queue"


def function_role(rendered, source):
    """The role allows what the code calls, on the things and the group of the parameters, and nothing else."""
    called = {call for call in re.findall(r"\.(\w+)\(\)\s*\.thing_name", source)}
    if called != set(NEEDS):
        yield f"the code calls {sorted(called)}; NEEDS knows {sorted(NEEDS)}"
    wanted = set().union(*NEEDS.values()) | {"sqs:SendMessage", "logs:CreateLogStream", "logs:PutLogEvents"}
    allowed = set()
    parameters = rendered.parameters
    for name, statement in statements(rendered):
        if name != "MitigationRolePolicy":
            continue
        allowed |= set(listed(statement["Action"]))
        for resource in listed(statement["Resource"]):
            thing = re.search(r":thing/([^/]+)(?:/(.*))?$", resource)
            if thing and thing[1] not in (parameters["CoreThings"], parameters["LocalThings"]):
                yield f"{name}: {resource} is no thing of the parameters"
            if thing and statement["Sid"] == "Shadows" and (thing[2] or "") != parameters["ShadowName"]:
                yield f"{name}: {resource} is not the shadow of the parameters"
            if thing and statement["Sid"] == "Group" and thing[1] == parameters["CoreThings"]:
                yield f"{name}: a core could be put into the group"
    if allowed != wanted:
        yield f"MitigationRolePolicy: allows {sorted(allowed)}; used are {sorted(wanted)}"


def environment(rendered, source):
    given = set(rendered.resources["Mitigation"]["Properties"]["Environment"]["Variables"])
    read = set(re.findall(r'(?:text|filled|patterns)\("([A-Z_]+)"\)', source))
    for name in given ^ read:
        yield f"the template and settings.rs do not agree about {name}"


def profiles(rendered):
    custom = {m["MetricName"]: m["MetricType"] for m in rendered.of("AWS::IoT::CustomMetric").values()}
    for profile in rendered.of("AWS::IoT::SecurityProfile").values():
        retained = [entry["Metric"] for entry in profile.get("AdditionalMetricsToRetainV2", [])]
        for metric in retained:
            if metric not in DEVICE_METRICS and metric not in custom:
                yield f"{profile['SecurityProfileName']}: nothing reports {metric}"
        if profile.get("Behaviors") and "AlertTargets" not in profile:
            yield f"{profile['SecurityProfileName']}: nobody hears of its alarms"
        for behavior in profile.get("Behaviors", []):
            where = f"{profile['SecurityProfileName']}/{behavior['Name']}"
            metric, criteria = behavior["Metric"], behavior["Criteria"]
            if not re.fullmatch(r"[a-zA-Z0-9:_-]{1,128}", behavior["Name"]):
                yield f"{where}: the name"
            if metric not in DEVICE_METRICS and metric not in custom:
                yield f"{where}: nothing reports {metric}"
            if criteria["ComparisonOperator"] not in ("less-than", "less-than-equals"):
                yield f"{where}: a thing that is silent, as a cut one is, would violate it"
            expected = "Count" if metric in COUNTED else "Number"
            if set(criteria["Value"]) != {expected}:
                yield f"{where}: the value of {metric} is a {expected}"
            duration = criteria.get("DurationSeconds")
            if duration is not None and int(duration) not in DURATIONS:
                yield f"{where}: durationSeconds {duration}"
            if metric.startswith("aws:all-") and duration is None:
                yield f"{where}: {metric} needs durationSeconds"
            for key in ("ConsecutiveDatapointsToAlarm", "ConsecutiveDatapointsToClear"):
                if not 1 <= int(criteria.get(key, 1)) <= 10:
                    yield f"{where}: {key}"


def nothing_is_lost(rendered):
    function = rendered.resources["Mitigation"]["Properties"]
    if "DeadLetterConfig" not in function:
        yield "Mitigation: no dead-letter queue"
    for config in rendered.of("AWS::Lambda::EventInvokeConfig").values():
        if config["MaximumRetryAttempts"] != 2:
            yield "MitigationRetries: throttling is left to these attempts"
    for name, subscription in rendered.of("AWS::SNS::Subscription").items():
        if subscription["Protocol"] == "lambda" and "RedrivePolicy" not in subscription:
            yield f"{name}: what cannot be delivered is lost"
    for name, rule in rendered.of("AWS::IoT::TopicRule").items():
        if "ErrorAction" not in rule["TopicRulePayload"]:
            yield f"{name}: what cannot be delivered is lost"
    for name, queue in rendered.of("AWS::SQS::Queue").items():
        if queue["MessageRetentionPeriod"] < 1209600:
            yield f"{name}: keeps messages for less than 14 days"
    invokers = len(rendered.of("AWS::Lambda::Permission"))
    if invokers != 1:
        yield f"{invokers} ways lead to the function"


def quarantine_policy(rendered):
    policy = rendered.resources["QuarantinePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    denied = {action for s in policy if s["Effect"] == "Deny" and s["Resource"] == "*" for action in s["Action"]}
    if denied != DATA_PLANE or any(s["Effect"] == "Allow" for s in policy):
        yield "QuarantinePolicy: is to deny the whole data plane and allow nothing"


def sizes(rendered):
    for name, policy in rendered.of("AWS::IoT::Policy").items():
        size = len(json.dumps(policy["PolicyDocument"], separators=(",", ":")))
        if size > MAX_IOT_POLICY:
            yield f"{name}: {size} characters; AWS IoT takes {MAX_IOT_POLICY}"


def check(rendered, decision_source, settings_source):
    """All complaints."""
    return [
        *wildcards(rendered),
        *trust(rendered),
        *function_role(rendered, decision_source),
        *environment(rendered, settings_source),
        *profiles(rendered),
        *nothing_is_lost(rendered),
        *quarantine_policy(rendered),
        *sizes(rendered),
    ]
