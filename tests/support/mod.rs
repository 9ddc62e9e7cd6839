//! What more than one test file uses.

pub(crate) mod netns;
