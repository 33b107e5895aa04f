//! Where everything stands below a node's directory (`DIR/a` in the demo, `/var/lib/futago` in the image).

/// Machine settings, written by set-up, read by every service at start.
pub const SETTINGS: &str = "settings.json";
/// Node id, private key and certificate.
pub const IDENTITY_DIR: &str = "identity";
/// Below [`IDENTITY_DIR`]: this identity is, or was, in a cluster, and is nothing without its Raft log (S20).
pub const IN_CLUSTER: &str = "in-cluster";
/// The admin password's hash below [`WEB_DIR`], PHC form.
pub const PASSWORD: &str = "password";
/// Raft log and vote (redb).
pub const RAFT_DB: &str = "raft.redb";
/// This node's last events, a line of JSON each.
pub const EVENTS: &str = "events.jsonl";
/// Password hash, session secret, web certificate.
pub const WEB_DIR: &str = "web";
/// Sockets and pid files; empty after a reboot.
pub const RUN_DIR: &str = "run";
/// This start of the machine: drawn by the kernel. Not below the node's directory.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The update that was uploaded, until it is installed or refused.
pub const UPDATE_BUNDLE: &str = "update/bundle";
/// The update of the whole cluster that this node leads, or has led.
pub const CLUSTER_BUNDLE: &str = "update/cluster-bundle";
/// Cluster manager's control socket: [`crate::api`] over HTTP/JSON.
pub const CLUSTER_SOCKET: &str = "run/cluster.sock";
/// Storage link: [`crate::link`], JSON lines. The cluster manager listens, storage dials.
pub const LINK_SOCKET: &str = "run/link.sock";
/// The web process's REST router without TLS and login, for `futago ctl --dir` (file permissions guard it).
pub const WEB_SOCKET: &str = "run/web.sock";
/// Where the web process takes what the consoles of other members ask of it: no login, and no more than an update of the
/// whole cluster takes. The cluster manager dials it for them.
pub const PEER_SOCKET: &str = "run/peer.sock";
/// Where the cluster manager puts the web process through to another member's [`PEER_SOCKET`]: a line with its name; the
/// answer is `ok`, or a sentence.
pub const TUNNEL_SOCKET: &str = "run/tunnel.sock";
/// Supervisor's control socket: [`crate::service`] over HTTP/JSON.
pub const SUPERVISOR_SOCKET: &str = "run/supervisor.sock";
/// Supervisor's process id.
pub const SUPERVISOR_PID: &str = "run/supervisor.pid";
/// What is wrong with the machine itself, a problem a line; PID 1 writes it, the cluster manager passes it on.
pub const MACHINE_PROBLEMS: &str = "run/problems";
/// What every release understands that this node may start without asking again ([`crate::update::Understood`]); PID 1 writes it once
/// the release that runs has proved itself, the cluster manager promises it to the cluster.
pub const UNDERSTOOD: &str = "run/understood.json";
/// What a release has to understand to be started here ([`crate::update::InUse`]); the cluster manager writes it, PID 1 looks
/// at it before it installs one.
pub const FORMATS: &str = "run/formats.json";
/// What the people at the machine's terminals should know of its start and since, a notice a line; PID 1 writes it, the
/// menus show the last ones.
pub const MACHINE_NOTICES: &str = "run/notices";
/// While a machine has no settings: what it was found to have ([`crate::setup::Machine`]); PID 1 writes it, the set-up
/// console reads it.
pub const SETUP_MACHINE: &str = "run/setup-machine.json";
/// While a machine has no settings: how to get into the set-up console ([`crate::setup::Door`]); the console writes it,
/// PID 1 shows it.
pub const SETUP_DOOR: &str = "run/setup-door.json";
/// A factory reset is wanted: PID 1 erases this directory at its next start, this file last.
pub const FACTORY_RESET: &str = "factory-reset";
/// One log file per service below it, e.g. `log/storage.log`.
pub const LOG_DIR: &str = "log";
