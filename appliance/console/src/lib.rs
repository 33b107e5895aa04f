//! The menu on the machine's screen and serial port (`futago console`).
//!
//! # Flow
//!
//! [`model`] (pure) is the state and what a key makes of it; [`view`] draws it with ratatui to any backend; [`keys`]
//! (pure) makes keys of a terminal's bytes; [`ansi`] writes what changed, and nothing else, as escape sequences.
//! `driver` is the loop round them: it owns the terminal. `node` asks the node, on a thread of its own, so that a node
//! that does not answer never stops the keys.
//!
//! # Invariants
//!
//! - The screen is 80x25, black and white, ASCII only: it looks the same on a VM's screen and on any serial terminal.
//! - Nothing is done that was not confirmed on the screen; a command under way takes no second one.
//! - What the menu knows is what the node last said; when the node is silent, the screen says that and shows nothing
//!   as current.
//! - A shell has the terminal to itself; only who stands before the machine is offered one.
//! - A terminal that vanishes is opened again; settings that it had are put back when the menu ends.

#![forbid(unsafe_code)]

pub mod ansi;
pub mod checks;
pub mod clock;
mod driver;
pub mod form;
pub mod keys;
pub mod model;
mod node;
mod probe;
mod shell;
pub mod stake;
pub mod view;

pub use driver::run;
