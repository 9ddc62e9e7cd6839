"""AWS's own Greengrass client against the test nucleus.

Runs as a component would: everything it needs comes from the environment. Each step prints one JSON line,
`{"step": ..., ...}`; `tests/nucleus.rs` reads them and checks both sides.
"""

import json
import os
import queue
import sys

import cbor2
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import (
    BinaryMessage,
    ConflictError,
    JsonMessage,
    PublishMessage,
    ResourceNotFoundError,
    ServiceError,
    UnauthorizedError,
)

TIMEOUT = 20
THING = os.environ["AWS_IOT_THING_NAME"]
METRICS = f"$aws/things/{THING}/defender/metrics"


def step(name, **facts):
    print(json.dumps({"step": name, **facts}), flush=True)


def subscription(subscribe, **arguments):
    """Subscribes and returns the queue of events and the operation."""
    events = queue.Queue()
    _, operation = subscribe(
        on_stream_event=events.put,
        on_stream_error=lambda error: events.put(error) or True,
        on_stream_closed=lambda: None,
        **arguments,
    )
    return events, operation


def error_of(expected, call, **arguments):
    try:
        call(**arguments)
    except expected as error:
        return error.message
    raise SystemExit(f"{call} did not raise {expected}")


def report(report_id):
    return {"header": {"report_id": report_id, "version": "1.0"}, "metrics": {"network_stats": {"bytes_in": 1}}}


def close(*operations):
    for operation in operations:
        operation.close().result(TIMEOUT)


def local_and_cloud(client):
    client.update_state(state="RUNNING")
    value = client.get_configuration(key_path=["report"]).value
    leaf = client.get_configuration(key_path=["report", "intervalSeconds"]).value
    missing = error_of(ResourceNotFoundError, client.get_configuration, key_path=["nothing"])
    step("configuration", value=value, leaf=leaf, missing=missing)

    events, watching = subscription(client.subscribe_to_configuration_update, key_path=[])
    step("watching")
    changed = events.get(timeout=TIMEOUT).configuration_update_event
    value = client.get_configuration(key_path=["report"]).value
    close(watching)
    step("changed", component=changed.component_name, key_path=changed.key_path, value=value)

    accepted, hearing_accepted = subscription(client.subscribe_to_iot_core, topic_name=f"{METRICS}/+/accepted", qos="1")
    rejected, hearing_rejected = subscription(client.subscribe_to_iot_core, topic_name=f"{METRICS}/+/rejected", qos="1")
    client.publish_to_iot_core(topic_name=f"{METRICS}/json", qos="1", payload=json.dumps(report(1)).encode())
    message = accepted.get(timeout=TIMEOUT).message
    step("accepted", topic=message.topic_name, body=json.loads(message.payload))
    client.publish_to_iot_core(topic_name=f"{METRICS}/cbor", qos="1", payload=cbor2.dumps(report(2)))
    message = accepted.get(timeout=TIMEOUT).message
    step("accepted-cbor", topic=message.topic_name, body=cbor2.loads(message.payload))
    client.publish_to_iot_core(topic_name=f"{METRICS}/json", qos="1", payload=b'{"header": {}}')
    message = rejected.get(timeout=TIMEOUT).message
    close(hearing_accepted, hearing_rejected)
    step("rejected", topic=message.topic_name, body=json.loads(message.payload))

    refused = error_of(UnauthorizedError, client.publish_to_iot_core, topic_name="other/topic", qos="1", payload=b"{}")
    step("unauthorized", message=refused)

    events, listening = subscription(client.subscribe_to_topic, topic="edge-warden/local")
    client.publish_to_topic(
        topic="edge-warden/local", publish_message=PublishMessage(binary_message=BinaryMessage(message=b"\x00\xff"))
    )
    binary = events.get(timeout=TIMEOUT).binary_message
    client.publish_to_topic(
        topic="edge-warden/local", publish_message=PublishMessage(json_message=JsonMessage(message={"a": 1}))
    )
    sent = events.get(timeout=TIMEOUT).json_message
    close(listening)
    step("local", topic=binary.context.topic, binary=list(binary.message), json=sent.message)


def shadows(client):
    arguments = {"thing_name": "cam-1", "shadow_name": "quarantine"}
    missing = error_of(ResourceNotFoundError, client.get_thing_shadow, **arguments)
    delta_topic = "$aws/things/cam-1/shadow/name/quarantine/update/delta"
    announced, hearing = subscription(client.subscribe_to_topic, topic=delta_topic)
    update = json.dumps({"state": {"desired": {"quarantine": True}}}).encode()
    accepted = json.loads(client.update_thing_shadow(payload=update, **arguments).payload)
    delta = json.loads(announced.get(timeout=TIMEOUT).binary_message.message)
    close(hearing)
    document = json.loads(client.get_thing_shadow(**arguments).payload)
    wrong = json.dumps({"state": {"reported": {"quarantine": True}}, "version": 7}).encode()
    conflict = error_of(ConflictError, client.update_thing_shadow, payload=wrong, **arguments)
    names = client.list_named_shadows_for_thing(thing_name="cam-1").results
    deleted = json.loads(client.delete_thing_shadow(**arguments).payload)
    step(
        "shadows",
        missing=missing,
        accepted=accepted,
        delta=delta,
        document=document,
        conflict=conflict,
        names=names,
        deleted=deleted,
    )


def no_shadows(client):
    message = error_of(ServiceError, client.get_thing_shadow, thing_name="cam-1", shadow_name="")
    step("no-shadows", message=message)


def main():
    client = GreengrassCoreIPCClientV2()
    for part in sys.argv[1:]:
        {"all": local_and_cloud, "shadows": shadows, "no-shadows": no_shadows}[part](client)
    client.close().result(TIMEOUT)
    step("end")


if __name__ == "__main__":
    main()
