//! One client: the connect handshake, then requests on streams.
//!
//! Sources: `eventstreamrpc` of the AWS IoT device SDK for Java (the classic nucleus' server side) and lite's
//! `modules/ggipcd/src/ipc_server.c`.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::Value;

use super::frame::{self, Frame, FrameError, read_frame};
use super::misbehave::Misbehave;
use super::operations::{Failure, MODEL};
use super::state::{Out, Outcome, Request};
use super::{Kind, Shared};

/// How long a half-open client may stall one write before it is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts the two threads of a connection. They end when either side closes it.
pub(super) fn serve(shared: &Arc<Shared>, stream: UnixStream) {
    let (out, queue) = mpsc::channel();
    let id = shared.change(|state| state.connect(out));
    let mut writer = stream.try_clone().unwrap();
    writer.set_write_timeout(Some(WRITE_TIMEOUT)).unwrap();
    std::thread::spawn(move || {
        for out in queue {
            match out {
                Out::Bytes(bytes) if writer.write_all(&bytes).is_ok() => {}
                _ => break,
            }
        }
        drop(writer.shutdown(Shutdown::Both));
    });
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        Client {
            shared: Arc::clone(&shared),
            id,
            highest_stream: 0,
        }
        .run(stream);
        shared.change(|state| state.gone(id));
    });
}

struct Client {
    shared: Arc<Shared>,
    id: u64,
    highest_stream: i32,
}

impl Client {
    fn run(&mut self, mut stream: UnixStream) {
        let limit = self.shared.settings.limits.message_bytes;
        let mut connected = false;
        loop {
            let frame = match read_frame(&mut stream, limit) {
                Ok(frame) => frame,
                Err(FrameError::Closed) => return,
                Err(problem) => {
                    self.violation(format!("{problem:?}"));
                    return;
                }
            };
            if connected {
                self.message(frame);
            } else if self.connect(&frame) {
                connected = true;
            } else {
                return;
            }
        }
    }

    fn connect(&self, frame: &Frame) -> bool {
        let body: Value = serde_json::from_slice(&frame.payload).unwrap_or_default();
        let problem = if frame.message_type != frame::CONNECT {
            Some(format!("first message has type {}", frame.message_type))
        } else if frame.stream != 0 || frame.flags != 0 {
            Some(format!("connect on stream {} with flags {}", frame.stream, frame.flags))
        } else if frame.header(":version") != Some("0.1.0") {
            Some(format!("connect with version {:?}", frame.header(":version")))
        } else if body["authToken"].as_str() != Some(self.shared.token.as_str()) {
            Some("connect with a wrong token".to_owned())
        } else {
            None
        };
        let accepted = problem.is_none();
        if let Some(problem) = problem {
            self.violation(problem);
        }
        self.shared.change(|state| {
            // Lite closes without an answer; classic answers without the flag and then closes.
            if accepted || self.shared.settings.kind == Kind::Classic {
                let flags = if accepted { frame::CONNECTION_ACCEPTED } else { 0 };
                let ack = Frame {
                    message_type: frame::CONNECT_ACK,
                    flags,
                    ..Frame::default()
                };
                state.send_bytes(self.id, ack.encode());
            }
            if accepted {
                state.seen.connections += 1;
            } else {
                state.close(self.id);
            }
        });
        accepted
    }

    fn message(&mut self, frame: Frame) {
        match frame.message_type {
            frame::PING => {
                let answer = Frame {
                    message_type: frame::PING_RESPONSE,
                    ..frame
                };
                self.shared.change(|state| state.send_bytes(self.id, answer.encode()));
            }
            frame::PING_RESPONSE => {}
            frame::APPLICATION_MESSAGE if frame.stream > 0 => self.application(&frame),
            other => {
                self.violation(format!("message of type {other} on stream {}", frame.stream));
                self.shared.change(|state| state.close(self.id));
            }
        }
    }

    fn application(&mut self, frame: &Frame) {
        if frame.terminates() {
            self.shared.change(|state| state.end_stream(self.id, frame.stream));
            return;
        }
        let Some(operation) = frame.header("operation").map(str::to_owned) else {
            self.violation(format!("a message without operation on stream {}", frame.stream));
            return;
        };
        if frame.stream <= self.highest_stream {
            self.violation(format!(
                "stream {} opened after stream {}",
                frame.stream, self.highest_stream
            ));
        }
        self.highest_stream = self.highest_stream.max(frame.stream);
        let short = operation.strip_prefix(MODEL).unwrap_or(&operation).to_owned();
        if frame.header("service-model-type") != Some(format!("{MODEL}{short}Request").as_str()) {
            self.violation(format!(
                "{operation} with model type {:?}",
                frame.header("service-model-type")
            ));
        }
        let Ok(body) = serde_json::from_slice::<Value>(&frame.payload) else {
            self.violation(format!("{operation} with a body that is not JSON"));
            return;
        };
        let call = Call {
            operation,
            short,
            stream: frame.stream,
            body,
        };
        let rule = self.shared.change(|state| state.rule_for_operation(&call.short));
        match rule {
            Some(Misbehave::Refuse { code, .. }) => {
                let failure = Failure::new(&code, "refused by the test");
                self.refuse(&call, &failure);
            }
            Some(Misbehave::NeverAnswer { .. }) => self.record(&call, Outcome::Unanswered),
            Some(Misbehave::Disconnect { .. }) => {
                self.record(&call, Outcome::Unanswered);
                self.shared.change(|state| state.close(self.id));
            }
            Some(Misbehave::Delay { by, .. }) => {
                let late = Client {
                    shared: Arc::clone(&self.shared),
                    id: self.id,
                    highest_stream: 0,
                };
                std::thread::spawn(move || {
                    std::thread::sleep(by);
                    late.perform(&call);
                });
            }
            _ => self.perform(&call),
        }
    }

    /// Carries the operation out, answers, and lets the consequences follow, all in one step for everybody else.
    fn perform(&self, call: &Call) {
        let now = self.shared.now();
        self.shared.change(|state| {
            let from = (self.id, call.stream);
            let result = state.operation(&self.shared.settings, from, &call.operation, &call.body, now);
            let consequence = match result {
                Ok((body, consequence)) => {
                    state.respond(&self.shared.settings, from, &call.short, &body);
                    state.seen.requests.push(call.seen(Outcome::Answered));
                    consequence
                }
                Err(failure) => {
                    state.respond_error(&self.shared.settings, from, &failure);
                    state.seen.requests.push(call.seen(Outcome::Refused(failure.code)));
                    None
                }
            };
            if let Some(consequence) = consequence {
                state.follow(&self.shared.settings, self.id, consequence, now);
            }
        });
    }

    fn refuse(&self, call: &Call, failure: &Failure) {
        self.shared.change(|state| {
            state.respond_error(&self.shared.settings, (self.id, call.stream), failure);
            state
                .seen
                .requests
                .push(call.seen(Outcome::Refused(failure.code.clone())));
        });
    }

    fn record(&self, call: &Call, outcome: Outcome) {
        self.shared.change(|state| state.seen.requests.push(call.seen(outcome)));
    }

    fn violation(&self, what: String) {
        self.shared.change(|state| state.seen.violations.push(what));
    }
}

struct Call {
    operation: String,
    /// Without `aws.greengrass#`.
    short: String,
    stream: i32,
    body: Value,
}

impl Call {
    fn seen(&self, outcome: Outcome) -> Request {
        Request {
            operation: self.short.clone(),
            body: self.body.clone(),
            outcome,
        }
    }
}
