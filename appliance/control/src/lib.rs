//! Types of the local control interfaces and the machine settings. No I/O, no policy.
//!
//! - [`settings`]: what one node is told before it can do anything (`settings.json`), with its validation.
//! - [`link`]: messages between the cluster manager and the storage process of one node (JSON lines over a unix
//!   socket): configuration and leases down, proposals and reports up.
//! - [`api`]: status and commands, between the web console or `futago ctl` and the cluster manager
//!   (HTTP/JSON over a unix socket).
//! - [`targets`] and [`names`]: who may log in to which target and sees which LUN, and iSCSI names and patterns.
//! - [`network`]: the part of the settings that says where a node is on its network.
//! - [`service`]: health of the supervised services.
//! - [`update`]: what runs on the node and what is installed beside it.
//! - [`setup`]: what a machine without settings is asked, and the settings that come of the answers.
//! - [`paths`]: where everything stands below a node's directory.
//!
//! Invariant: every type here is data; decoding rejects unknown enum tags, and a setting that was accepted by
//! [`settings::Settings::validate`] needs no further check elsewhere.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod api;
pub mod link;
pub mod names;
pub mod network;
pub mod paths;
pub mod service;
pub mod settings;
pub mod setup;
pub mod targets;
pub mod update;
