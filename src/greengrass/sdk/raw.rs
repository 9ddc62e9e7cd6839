//! The raw calls of `gg/ipc/client_raw.h`. Layouts as in `gg/types.h` of the SDK version pinned in Cargo.toml.
#![allow(
    unsafe_code,
    reason = "the only foreign calls of the crate; every block states why it is sound"
)]

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use gg_sdk::{Kv, Sdk};

use super::read::{Source, read_event};
use crate::greengrass::{IncomingSender, NucleusError};

pub(super) static UNREADABLE: AtomicU64 = AtomicU64::new(0);

/// What the SDK's receiving thread is given for one subscription.
pub(super) struct Sink {
    pub(super) source: Source,
    pub(super) incoming: IncomingSender,
}

impl Sink {
    /// Hand one event over. Runs on the SDK's receiving thread, holding its lock: it only copies and sends.
    pub(super) fn take(&self, event: &[Kv<'_>]) {
        match read_event(self.source, event) {
            Some(incoming) => (self.incoming)(incoming),
            None => {
                UNREADABLE.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// `GgError`: a C enum without negative values, which the supported ABIs pass as `unsigned int`.
pub(super) type Code = u32;
const OK: Code = 0;

#[repr(C)]
struct RawBuffer {
    data: *const u8,
    len: usize,
}

impl RawBuffer {
    fn of(text: &str) -> Self {
        Self {
            data: text.as_ptr(),
            len: text.len(),
        }
    }
}

/// `GgMap`; `Kv` is a transparent wrapper of `GgKV`, so a slice of them is its array.
#[repr(C)]
struct RawMap {
    pairs: *const c_void,
    len: usize,
}

impl RawMap {
    fn of(pairs: &[Kv<'_>]) -> Self {
        Self {
            pairs: pairs.as_ptr().cast(),
            len: pairs.len(),
        }
    }

    /// # Safety
    /// `pairs` is null, or points to `len` pairs that live and stay unchanged for as long as the result is used.
    unsafe fn pairs<'a>(&self) -> &'a [Kv<'a>] {
        if self.pairs.is_null() {
            return &[];
        }
        // SAFETY: not null (checked), and the caller vouches for length and lifetime; `GgKV` is an array of bytes, so
        // any address is aligned, and `Kv` is a transparent wrapper of it.
        unsafe { std::slice::from_raw_parts(self.pairs.cast::<Kv<'a>>(), self.len) }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawHandle {
    val: u32,
}

type ResultCallback = unsafe extern "C" fn(ctx: *mut c_void, result: RawMap) -> Code;
type ErrorCallback = unsafe extern "C" fn(ctx: *mut c_void, error_code: RawBuffer, message: RawBuffer) -> Code;
type EventCallback =
    unsafe extern "C" fn(ctx: *mut c_void, aux: *mut c_void, handle: RawHandle, model: RawBuffer, data: RawMap) -> Code;

unsafe extern "C" {
    fn ggipc_connect_with_token(socket_path: RawBuffer, auth_token: RawBuffer) -> Code;
    fn ggipc_subscribe(
        operation: RawBuffer,
        service_model_type: RawBuffer,
        params: RawMap,
        result_callback: Option<ResultCallback>,
        error_callback: Option<ErrorCallback>,
        response_ctx: *mut c_void,
        sub_callback: Option<EventCallback>,
        sub_callback_ctx: *mut c_void,
        sub_callback_aux_ctx: *mut c_void,
        sub_handle: *mut RawHandle,
    ) -> Code;
    fn ggipc_close_subscription(handle: RawHandle);
}

/// Start the SDK's receiving thread, once per process.
pub(super) fn start_receiving() {
    static SDK: OnceLock<Sdk> = OnceLock::new();
    SDK.get_or_init(Sdk::init);
}

pub(super) fn raw_connect(socket: &str, token: &str) -> Result<(), Code> {
    // SAFETY: both buffers point to live text for the whole call, which does not keep them (`client.c` copies the path
    // and encodes the token). The function asserts that there is no connection yet; the caller made sure.
    match unsafe { ggipc_connect_with_token(RawBuffer::of(socket), RawBuffer::of(token)) } {
        OK => Ok(()),
        code => Err(code),
    }
}

/// Reads the answer to one request; says whether it had the shape expected.
pub(super) type Reader<'a> = &'a mut dyn FnMut(&[Kv<'_>]) -> bool;

/// What the callbacks of one request need; lives on the stack of the caller, who waits for the answer.
struct Pending<'a> {
    read: Option<Reader<'a>>,
    /// Error code and message of the nucleus.
    refusal: Option<(String, String)>,
}

/// # Safety
/// For the SDK only: `ctx` is the `Pending` of the request in progress, `result` lives for the call.
unsafe extern "C" fn on_result(ctx: *mut c_void, result: RawMap) -> Code {
    // SAFETY: `ctx` is the `&mut Pending` given to `ggipc_subscribe` by a thread that is blocked there until this
    // returns, so the reference is exclusive.
    let pending = unsafe { &mut *ctx.cast::<Pending<'_>>() };
    // SAFETY: the SDK's decoded answer stays in place while its callback runs (`pass_response_to_user_callback`).
    let answer = unsafe { result.pairs() };
    match pending.read.as_mut().is_none_or(|read| read(answer)) {
        true => OK,
        false => gg_sdk::Error::Invalid as Code,
    }
}

/// # Safety
/// For the SDK only: `ctx` is the `Pending` of the request in progress, the buffers live for the call.
unsafe extern "C" fn on_error(ctx: *mut c_void, error_code: RawBuffer, message: RawBuffer) -> Code {
    let copy = |buffer: RawBuffer| {
        if buffer.data.is_null() {
            return String::new();
        }
        // SAFETY: not null, and the SDK's buffer holds `len` bytes while its callback runs.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.data, buffer.len) };
        String::from_utf8_lossy(bytes).into_owned()
    };
    // SAFETY: as in `on_result`.
    let pending = unsafe { &mut *ctx.cast::<Pending<'_>>() };
    pending.refusal = Some((copy(error_code), copy(message)));
    gg_sdk::Error::Remote as Code
}

/// # Safety
/// For the SDK only: `ctx` is the `Sink` of the subscription, `data` lives for the call.
unsafe extern "C" fn on_event(
    ctx: *mut c_void,
    _aux: *mut c_void,
    _handle: RawHandle,
    _model: RawBuffer,
    data: RawMap,
) -> Code {
    // SAFETY: `ctx` points into the box that `Subscription` keeps until it has closed the subscription; the SDK holds
    // one lock while this runs and while it closes, so none of these calls outlives the box. It is only shared.
    let sink = unsafe { &*ctx.cast_const().cast::<Sink>() };
    // SAFETY: the SDK's decoded event stays in place while its callback runs (`call_sub_callback`).
    sink.take(unsafe { data.pairs() });
    // Anything else would make the SDK close the subscription.
    OK
}

fn raw_request(
    operation: &str,
    object: &str,
    params: &[Kv<'_>],
    bytes: usize,
    read: Option<Reader<'_>>,
    sink: Option<&Sink>,
) -> Result<RawHandle, NucleusError> {
    let name = format!("aws.greengrass#{operation}");
    let model = format!("{name}Request");
    let mut handle = RawHandle { val: 0 };
    // Without a reader any answer will do, even one that is no JSON object.
    let result_callback: Option<ResultCallback> = read.is_some().then_some(on_result as ResultCallback);
    let event_callback: Option<EventCallback> = sink.is_some().then_some(on_event as EventCallback);
    let mut pending = Pending { read, refusal: None };
    // SAFETY: buffers, parameters, `pending` and `handle` live until the call returns. The call waits for the answer or
    // gives up after 10 s, and gives the stream up under the lock its callbacks run under (`ggipc_subscribe`), so
    // `pending` is not used afterwards. `sink` is null, or outlives the subscription (see `Subscription`).
    let code = unsafe {
        ggipc_subscribe(
            RawBuffer::of(&name),
            RawBuffer::of(&model),
            RawMap::of(params),
            result_callback,
            Some(on_error),
            (&raw mut pending).cast(),
            event_callback,
            sink.map_or(std::ptr::null_mut(), |sink| std::ptr::from_ref(sink).cast_mut().cast()),
            std::ptr::null_mut(),
            &raw mut handle,
        )
    };
    match code {
        OK => Ok(handle),
        code => Err(failure(format!("{operation} {object}"), code, pending.refusal, bytes)),
    }
}

pub(super) fn raw_call(
    operation: &str,
    object: &str,
    params: &[Kv<'_>],
    bytes: usize,
    read: Option<Reader<'_>>,
) -> Result<(), NucleusError> {
    raw_request(operation, object, params, bytes, read, None).map(|_| ())
}

/// An open subscription; closed when dropped.
pub(super) struct Subscription {
    handle: RawHandle,
    /// Freed after the subscription was closed: fields are dropped after `drop`.
    _sink: Box<Sink>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the handle came from `ggipc_subscribe`; a stale one is noticed and ignored (`validate_handle`).
        unsafe { ggipc_close_subscription(self.handle) };
    }
}

pub(super) fn raw_subscribe(
    operation: &str,
    object: &str,
    params: &[Kv<'_>],
    sink: Box<Sink>,
) -> Result<Subscription, NucleusError> {
    let handle = raw_request(operation, object, params, 0, None, Some(&sink))?;
    Ok(Subscription { handle, _sink: sink })
}

/// The SDK's word for an error code.
pub(super) fn describe(code: Code) -> String {
    use gg_sdk::Error::{
        Busy, Config, Conflict, Expected, Failure, Fatal, Invalid, Nodata, Noentry, Nomem, Parse, Range, Remote, Retry,
        Timeout, Unauthorized, Unsupported,
    };
    let known = [
        Failure,
        Retry,
        Busy,
        Fatal,
        Invalid,
        Unsupported,
        Parse,
        Range,
        Nomem,
        gg_sdk::Error::Noconn,
        Nodata,
        Noentry,
        Config,
        Remote,
        Expected,
        Timeout,
        Unauthorized,
        Conflict,
    ];
    let found = known.into_iter().find(|error| *error as Code == code);
    found.map_or_else(|| format!("error {code}"), |error| error.to_string())
}

/// What went wrong, from the nucleus' own words where it gave any (`refusal`), else from the SDK's code.
pub(super) fn failure(what: String, code: Code, refusal: Option<(String, String)>, bytes: usize) -> NucleusError {
    if let Some((error, message)) = refusal {
        return match error.as_str() {
            "UnauthorizedError" => NucleusError::Denied { what },
            "ResourceNotFoundError" => NucleusError::NotFound { what },
            "ConflictError" => NucleusError::Conflict { what },
            _ => NucleusError::Failed {
                what,
                detail: format!("{error}: {message}"),
            },
        };
    }
    let is = |error: gg_sdk::Error| code == error as Code;
    if is(gg_sdk::Error::Noconn) {
        NucleusError::NoConnection {
            what,
            detail: describe(code),
        }
    } else if is(gg_sdk::Error::Timeout) {
        NucleusError::TimedOut { what }
    } else if is(gg_sdk::Error::Nomem) {
        NucleusError::TooLarge { what, bytes }
    } else {
        NucleusError::Failed {
            what,
            detail: describe(code),
        }
    }
}
