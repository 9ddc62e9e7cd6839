"""AWS IoT as moto plays it, behind a proxy that notes every call and can fail some."""

import http.client
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

SHADOW = r"^(GET|POST) /things/[^/]+/shadow"
READ_SHADOW = r"^GET /things/[^/]+/shadow"
WRITE_SHADOW = r"^POST /things/[^/]+/shadow"
GROUP = r"^PUT /thing-groups/updateThingGroupsForThing"
ALWAYS = 10**9
PATIENCE = 600  # seconds for one call; the machine may be busy, and moto loads a service at its first call
# A call that is given up and made again would find done what it was to do.
ONCE = Config(connect_timeout=PATIENCE, read_timeout=PATIENCE, retries={"total_max_attempts": 1})


class Aws:
    """The services, their clients, and the way the function reaches them (`endpoint`).

    `calls`: every call of the function, as `METHOD path`. `demands`: the thing of each shadow update of the function that
    succeeded and had a desired part. (moto's metadata cannot tell: it gives every key a new time with each update.)
    """

    def __init__(self):
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        _, self._port = self._moto.get_host_and_port()
        self._lock = threading.Lock()
        self._faults = []
        self.calls = []
        self.demands = []
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        # by name: the statically linked function must find its way through the resolver
        self.endpoint = f"http://localhost:{self._proxy.server_port}"
        client = lambda service: boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self._port}",
            region_name="us-east-1",
            aws_access_key_id="AKIATEST",
            aws_secret_access_key="secret",
            config=ONCE,
        )
        self.iot, self.shadows = client("iot"), client("iot-data")

    def _handler(aws):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                call = f"{self.command} {self.path}"
                with aws._lock:
                    aws.calls.append(call)
                    fault = next((f for f in aws._faults if f["times"] > 0 and re.search(f["call"], call)), None)
                    if fault:
                        fault["times"] -= 1
                if fault and fault["before"]:
                    fault["before"]()
                if fault and fault["status"]:
                    answer = json.dumps({"message": fault["message"]}).encode()
                    headers = {"x-amzn-ErrorType": fault["code"], "Content-Type": "application/json"}
                    return self.answer(fault["status"], headers, answer)
                upstream = http.client.HTTPConnection("127.0.0.1", aws._port, timeout=PATIENCE)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "content-length")}
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                content = response.read()
                if re.search(WRITE_SHADOW, call) and response.status == 200 and "desired" in json.loads(body)["state"]:
                    with aws._lock:
                        aws.demands.append(self.path.split("/")[2])
                keep = {k: v for k, v in response.getheaders() if k.lower().startswith(("x-amz", "content-type"))}
                upstream.close()
                return self.answer(response.status, keep, content)

            def answer(self, status, headers, content):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = forward

            def log_message(self, *_):
                pass

        return Handler

    def fail(self, call, code, status, times=ALWAYS, message="injected"):
        """Answer the next `times` calls that match with an error."""
        self._fault(call, times, code=code, status=status, message=message)

    def meanwhile(self, call, do):
        """Do something just before the next call that matches is carried out."""
        self._fault(call, 1, before=do)

    def _fault(self, call, times, code=None, status=None, message=None, before=None):
        fault = {"call": call, "times": times, "code": code, "status": status, "message": message, "before": before}
        with self._lock:
            self._faults.append(fault)

    def heal(self):
        """No more faults, and a new page for `calls`."""
        with self._lock:
            self._faults.clear()
            self.calls.clear()
            self.demands.clear()

    def thing(self, name):
        self.iot.create_thing(thingName=name)
        return name

    def groups(self, thing):
        listed = self.iot.list_thing_groups_for_thing(thingName=thing)["thingGroups"]
        return sorted(group["groupName"] for group in listed)

    def document(self, thing, shadow="quarantine"):
        """The shadow document; None when there is none."""
        name = {"shadowName": shadow} if shadow else {}
        try:
            answer = self.shadows.get_thing_shadow(thingName=thing, **name)
        except self.shadows.exceptions.ResourceNotFoundException:
            return None
        return json.loads(answer["payload"].read())

    def desired(self, thing, shadow="quarantine"):
        """`desired.quarantine`; None when there is none."""
        document = self.document(thing, shadow) or {"state": {}}
        return document["state"].get("desired", {}).get("quarantine")

    def write(self, thing, state, shadow="quarantine"):
        name = {"shadowName": shadow} if shadow else {}
        self.shadows.update_thing_shadow(thingName=thing, payload=json.dumps({"state": state}), **name)

    def close(self):
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()
