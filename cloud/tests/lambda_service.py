"""The Lambda service, as far as one function sees it: the runtime API, and what becomes of asynchronous events.

The function under test is the binary that is deployed (`bootstrap`), in a process of its own, with the environment the
template gives it and an environment like Lambda's.
"""

import json
import os
import queue
import subprocess
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 300  # seconds; the machine may be busy


class InitError(Exception):
    """The function ended before it asked for an event."""


class Function:
    """A running function. One event at a time, as Lambda does for one instance."""

    def __init__(self, binary, environment, region="us-east-1"):
        self._events = queue.Queue()
        self._answers = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        lambda_environment = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "mitigation",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_REGION": region,
            "AWS_ACCESS_KEY_ID": "AKIATEST",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "token",
        }
        self._process = subprocess.Popen(
            [binary],
            env={**lambda_environment, **{key: str(value) for key, value in environment.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self._process.stdout), daemon=True)
        self._reader.start()
        self.dead_letters = []

    def _handler(function):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                assert self.path == "/2018-06-01/runtime/invocation/next", self.path
                body = function._events.get()
                if body is None:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", str(uuid.uuid4()))
                self.send_header("Lambda-Runtime-Deadline-Ms", "4102444800000")
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:1:function:mitigation")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kind = self.path.rsplit("/", 1)[1]
                function._answers.put((kind, json.loads(body)))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        return Handler

    def invoke(self, event):
        """One invocation: ("response", lines) or ("error", what Lambda is told)."""
        self._events.put(event if isinstance(event, bytes) else json.dumps(event).encode())
        waited = 0
        while True:
            try:
                return self._answers.get(timeout=0.5)
            except queue.Empty:
                waited += 0.5
                if self._process.poll() is not None:
                    raise InitError("".join(self.log)) from None
                assert waited < PATIENCE, "".join(self.log)

    def deliver(self, event, attempts=3):
        """As Lambda's asynchronous invocation with MaximumRetryAttempts 2: tried anew, then a dead letter.

        Gives the answers of all attempts.
        """
        answers = []
        for _ in range(attempts):
            answers.append(self.invoke(event))
            if answers[-1][0] == "response":
                return answers
        self.dead_letters.append(event)
        return answers

    def ended(self):
        """Wait for the process to end by itself; its exit status and output."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status, "".join(self.log)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._events.put(None)
        self._server.shutdown()
        self._server.server_close()


def environment(endpoint, **more):
    """The variables of the template, with the template's defaults."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "CORES": "gateway-1",
        "THINGS": "cam-*",
        "ALARMS": "*",
        "SHADOW_NAME": "quarantine",
        "THING_GROUP": "Quarantine",
        "MODE": "",
        "QUARANTINE_SECONDS": "0",
        "RELEASE_WHEN_CLEARED": "false",
        **more,
    }


def binary():
    """The function as cloud/test.sh built it."""
    path = os.environ.get("MITIGATION_BINARY")
    assert path, "MITIGATION_BINARY names no binary: run cloud/test.sh"
    return path
