//! Detection as a whole: the grammar, AWS's examples, the engine against a slow reference.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers of the tests are small"
)]

#[cfg(test)] // always so here; it tells clippy that the functions beside the tests are test code too
#[path = "detect"]
mod detect {
    mod agreement;
    mod alarms;
    mod examples;
    mod generate;
    mod grammar;
    mod reference;
}
