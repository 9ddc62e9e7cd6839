//! A client of the IPC protocol, just enough to test the test nucleus and to play other components.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::TestNucleus;
use super::frame::{self, Frame, FrameError, read_frame};

/// Longest wait for one message.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connected client.
pub struct Client {
    stream: UnixStream,
    next_stream: i32,
}

impl Client {
    /// Connects with the component's token.
    ///
    /// # Panics
    /// If refused.
    pub fn connect(nucleus: &TestNucleus) -> Self {
        Self::connect_with(nucleus, &nucleus.shared.token).expect("accepted")
    }

    /// Connects with any token; the flags of the connect-ack are the error when refused with an answer, `None` when
    /// the connection was closed without one.
    pub fn connect_with(nucleus: &TestNucleus, token: &str) -> Result<Self, Option<i32>> {
        let stream = UnixStream::connect(nucleus.socket()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut client = Self { stream, next_stream: 0 };
        client.send(&Frame {
            message_type: frame::CONNECT,
            headers: vec![(":version".to_owned(), "0.1.0".to_owned())],
            payload: json!({"authToken": token}).to_string().into_bytes(),
            ..Frame::default()
        });
        match client.receive() {
            Ok(ack) if ack.message_type == frame::CONNECT_ACK && ack.flags == frame::CONNECTION_ACCEPTED => Ok(client),
            Ok(ack) => Err(Some(ack.flags)),
            Err(_) => Err(None),
        }
    }

    /// Sends a frame as it is.
    pub fn send(&mut self, frame: &Frame) {
        self.stream.write_all(&frame.encode()).unwrap();
    }

    /// Sends a request and returns its stream id, without waiting.
    pub fn request(&mut self, operation: &str, body: &Value) -> i32 {
        self.next_stream += 1;
        self.send(&Frame {
            message_type: frame::APPLICATION_MESSAGE,
            stream: self.next_stream,
            headers: vec![
                ("operation".to_owned(), format!("aws.greengrass#{operation}")),
                (
                    "service-model-type".to_owned(),
                    format!("aws.greengrass#{operation}Request"),
                ),
            ],
            payload: body.to_string().into_bytes(),
            ..Frame::default()
        });
        self.next_stream
    }

    /// The next frame.
    pub fn receive(&mut self) -> Result<Frame, FrameError> {
        read_frame(&mut self.stream, None)
    }

    /// The body of the next frame, which must be an event or response.
    pub fn event(&mut self) -> Value {
        let frame = self.receive().expect("an event");
        assert_eq!(frame.message_type, frame::APPLICATION_MESSAGE, "{frame:?}");
        serde_json::from_slice(&frame.payload).unwrap()
    }

    /// A request and its answer: the body, or the `_errorCode`.
    pub fn call(&mut self, operation: &str, body: &Value) -> Result<Value, String> {
        let stream = self.request(operation, body);
        let frame = self.receive().expect("an answer");
        assert_eq!(frame.stream, stream, "{frame:?}");
        let body: Value = serde_json::from_slice(&frame.payload).unwrap();
        match frame.message_type {
            frame::APPLICATION_ERROR => Err(body["_errorCode"].as_str().unwrap().to_owned()),
            _ => Ok(body),
        }
    }
}
