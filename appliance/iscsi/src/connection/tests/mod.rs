//! Scripted sessions: PDUs in, PDUs out. No socket, no clock.

mod bench;
mod data;
mod fuzz;
mod management;
mod service;
mod window;
