//! Quarantine as a whole: the transition table of the docs, properties against a slow reference, a full disk.

#[cfg(test)] // always so here; it tells clippy that the functions beside the tests are test code too
#[path = "quarantine"]
mod quarantine {
    mod disk;
    mod document;
    mod properties;
    mod reference;
    mod table;
}
