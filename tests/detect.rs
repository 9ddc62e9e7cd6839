//! Detection as a whole: the grammar, AWS's examples, the engine against a slow reference.

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
