"""Violation events as Device Defender Detect sends them, and the envelope of SNS around them."""

import json
from itertools import count

TOPIC = "arn:aws:sns:us-east-1:123456789012:Violations"
_clock = count(1_700_000_000_000, 300_000)
_ids = count(1)


def new_id():
    """An id like AWS's: 32 hexadecimal digits, the same from an alarm's beginning to its end."""
    return f"{next(_ids):032x}"


def violation(thing, kind="in-alarm", violation_id=None, time=None, profile="EdgeWardenThings", behavior="BytesOut"):
    """The message; each is five minutes later than the one before."""
    return {
        "violationEventTime": time or next(_clock),
        "thingName": thing,
        "behavior": {
            "name": behavior,
            "metric": "aws:all-bytes-out",
            "criteria": {
                "comparisonOperator": "less-than-equals",
                "value": {"count": 50_000_000},
                "durationSeconds": 300,
                "consecutiveDatapointsToAlarm": 1,
                "consecutiveDatapointsToClear": 3,
            },
        },
        "violationEventType": kind,
        "metricValue": {"count": 61_234_567},
        "violationId": violation_id or new_id(),
        "securityProfileName": profile,
    }


def sns(*messages):
    """What Lambda gets from SNS; a message that is no text is written as JSON."""

    def record(message):
        text = message if isinstance(message, str) else json.dumps(message, separators=(",", ":"))
        return {
            "EventSource": "aws:sns",
            "EventVersion": "1.0",
            "EventSubscriptionArn": f"{TOPIC}:7c9f5c9e-0000-4000-8000-000000000001",
            "Sns": {
                "Type": "Notification",
                "MessageId": "0f0e0d0c-0000-4000-8000-000000000002",
                "TopicArn": TOPIC,
                "Subject": None,
                "Message": text,
                "Timestamp": "2026-11-22T10:00:00.527Z",
                "SignatureVersion": "1",
                "Signature": "c2lnbmVk",
                "SigningCertUrl": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService.pem",
                "UnsubscribeUrl": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe",
                "MessageAttributes": {},
            },
        }

    return {"Records": [record(message) for message in messages]}


def rule(message, core="gateway-1"):
    """What the IoT rule hands on: the message, and the core it came from."""
    return {**message, "core": core}
