//! One netlink dump at a time, in the calling thread's network namespace, read again when its table changed meanwhile.
//! Requests and replies are encoded and decoded by `netlink-bindings`.

use netlink_bindings::traits::NetlinkRequest;

use super::error::CollectError;
use crate::netlink::{Dump, dump_once};

/// How often a dump is begun again when the table changed under it.
const ATTEMPTS: u32 = 4;

/// Sends the dump `request` for the table called `origin` and collects with `each` into a fresh `T`. When the table
/// changed during every attempt, the last one is kept, and that is said.
pub(super) fn dump<R: NetlinkRequest, T: Default>(
    origin: &str,
    request: &R,
    mut each: impl FnMut(&mut T, R::ReplyType<'_>),
) -> Result<(T, Dump), CollectError> {
    let mut attempt = 1;
    loop {
        let mut found = T::default();
        let end = dump_once(request, |reply| each(&mut found, reply)).map_err(|e| CollectError::from_io(origin, e))?;
        if end == Dump::Steady || attempt == ATTEMPTS {
            return Ok((found, end));
        }
        attempt += 1;
    }
}
