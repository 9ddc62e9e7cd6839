//! One message of the event-stream RPC protocol: the framing is `aws-smithy-eventstream`'s, the meaning of the
//! headers is ours (`:message-type`, `:message-flags`, `:stream-id`).

use std::io::{self, Read};

use aws_smithy_eventstream::frame::{read_message_from, write_message_to};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};

/// `:message-type` of a request, response or stream event.
pub const APPLICATION_MESSAGE: i32 = 0;
/// `:message-type` of an error that answers a request or ends a stream.
pub const APPLICATION_ERROR: i32 = 1;
/// `:message-type` of a keep-alive probe.
pub const PING: i32 = 2;
/// `:message-type` of its answer.
pub const PING_RESPONSE: i32 = 3;
/// `:message-type` of the first message of a client.
pub const CONNECT: i32 = 4;
/// `:message-type` of the answer to it.
pub const CONNECT_ACK: i32 = 5;
/// `:message-type` of a connection-wide complaint.
pub const PROTOCOL_ERROR: i32 = 6;

/// `:message-flags` of a connect-ack that lets the client in.
pub const CONNECTION_ACCEPTED: i32 = 1;
/// `:message-flags` of the last message on a stream.
pub const TERMINATE_STREAM: i32 = 2;

/// Length, header length and their checksum.
const PRELUDE_BYTES: usize = 12;
/// What the event-stream format itself allows, 16 MiB.
const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// A decoded message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// `:message-type`.
    pub message_type: i32,
    /// `:message-flags`.
    pub flags: i32,
    /// `:stream-id`; 0 for messages about the connection.
    pub stream: i32,
    /// The other headers, those that are strings.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The value of a string header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether this is the last message on its stream.
    pub fn terminates(&self) -> bool {
        self.flags & TERMINATE_STREAM != 0
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Message::new(self.payload.clone())
            .add_header(Header::new(":message-type", HeaderValue::Int32(self.message_type)))
            .add_header(Header::new(":message-flags", HeaderValue::Int32(self.flags)))
            .add_header(Header::new(":stream-id", HeaderValue::Int32(self.stream)));
        for (name, value) in &self.headers {
            message = message.add_header(Header::new(name.clone(), HeaderValue::String(value.clone().into())));
        }
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).expect("a message of the test nucleus fits the format");
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let message = read_message_from(bytes).map_err(|error| FrameError::Malformed(error.to_string()))?;
        let mut frame = Frame {
            payload: message.payload().to_vec(),
            ..Frame::default()
        };
        for header in message.headers() {
            match (header.name().as_str(), header.value()) {
                (":message-type", HeaderValue::Int32(value)) => frame.message_type = *value,
                (":message-flags", HeaderValue::Int32(value)) => frame.flags = *value,
                (":stream-id", HeaderValue::Int32(value)) => frame.stream = *value,
                (name @ (":message-type" | ":message-flags" | ":stream-id"), other) => {
                    return Err(FrameError::Malformed(format!(
                        "header {name} is not an int32: {other:?}"
                    )));
                }
                (name, HeaderValue::String(value)) => {
                    frame.headers.push((name.to_owned(), value.as_str().to_owned()));
                }
                _ => {}
            }
        }
        Ok(frame)
    }
}

/// Why no frame came.
#[derive(Debug)]
pub enum FrameError {
    /// The peer closed the connection, or it was closed here.
    Closed,
    /// More than the receiver takes.
    TooLarge(usize),
    /// Not an event-stream message.
    Malformed(String),
}

impl From<io::Error> for FrameError {
    fn from(_: io::Error) -> Self {
        FrameError::Closed
    }
}

/// Reads one frame. `limit` is the largest message, counted as nucleus lite counts it: without the prelude.
pub fn read_frame(from: &mut impl Read, limit: Option<usize>) -> Result<Frame, FrameError> {
    let mut bytes = vec![0; PRELUDE_BYTES];
    from.read_exact(&mut bytes)?;
    let total = usize::try_from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).unwrap();
    if total > MAX_FRAME_BYTES || limit.is_some_and(|limit| total.saturating_sub(PRELUDE_BYTES) > limit) {
        return Err(FrameError::TooLarge(total));
    }
    if total < PRELUDE_BYTES {
        return Err(FrameError::Malformed(format!(
            "length {total} is shorter than its prelude"
        )));
    }
    bytes.resize(total, 0);
    from.read_exact(&mut bytes[PRELUDE_BYTES..])?;
    Frame::decode(&bytes)
}
