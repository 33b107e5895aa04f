//! Whole managers, in one process: each in a runtime of its own, which a "kill" drops with everything in it.

mod events;
mod failures;
mod fake_storage;
mod fixture;
mod removal;
mod scenarios;
