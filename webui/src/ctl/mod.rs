//! `futago ctl`: the REST interface on the command line. Exit status 0: done; 1: not done, with one line on
//! standard error saying why; 2: wrong usage.

mod output;
mod targets;
mod update;

use crate::client::{Client, ClientError, Trust};
use crate::text;
use clap::{Args, Subcommand};
use control::settings::Ports;
use control::setup::Wanted;
use control::targets::{BlockFormat, Presentation};
use serde::Serialize;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where an appliance keeps its node.
const DEFAULT_DIR: &str = "/var/lib/futago";
/// Read by `--url` when there is no `--password-file`.
const PASSWORD_VARIABLE: &str = "FUTAGO_PASSWORD";

/// Arguments of `futago ctl`.
#[derive(Args, Debug)]
pub struct CtlArguments {
    /// The node's directory: talks to the node on this machine [default: /var/lib/futago]
    #[arg(long, global = true, conflicts_with = "url")]
    dir: Option<PathBuf>,
    /// A console elsewhere: https://HOST[:PORT]
    #[arg(long, global = true)]
    url: Option<String>,
    /// User at --url
    // Not global: `target chap` has a --user of its own.
    #[arg(long, default_value = "admin")]
    user: String,
    /// File whose first line is the password for --url [default: $FUTAGO_PASSWORD, else asked for]
    #[arg(long, global = true)]
    password_file: Option<PathBuf>,
    /// SHA-256 of the certificate at --url, as `futago ctl --dir … fingerprint` prints it
    #[arg(long, global = true, conflicts_with = "insecure")]
    fingerprint: Option<String>,
    /// Accept any certificate at --url: the password may go to a stranger
    #[arg(long, global = true)]
    insecure: bool,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show cluster, volumes and services
    Status,
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Targets, their LUNs, and who may log in
    #[command(subcommand)]
    Target(targets::TargetCommand),
    /// Nodes of the cluster
    #[command(subcommand, visible_alias = "member")]
    Node(NodeCommand),
    /// Move the service of a volume, and of all others of its primary, to the other in-sync node
    Handover {
        /// The volume
        volume: String,
        /// To this node [default: the peer that is in sync]
        #[arg(long)]
        to: Option<String>,
    },
    /// Compare the copies of a volume
    Verify {
        /// The volume
        volume: String,
    },
    /// Show what happened
    Events {
        /// Only events after this number
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Write status, events, settings and the ends of the logs into a tar archive (no secrets)
    SupportBundle {
        /// The archive; must not exist yet
        file: PathBuf,
    },
    /// Show which release runs, or install another one
    Update(update::UpdateArguments),
    /// Restart the node's machine
    Restart,
    /// Print the SHA-256 of the console's certificate
    Fingerprint,
    /// Set the first admin password, from --password-file or $FUTAGO_PASSWORD, else asked for; with --code, make a
    /// machine without settings a node (its screen shows URL, fingerprint and code)
    Setup(Box<SetupArguments>),
    /// Change the admin password of the node; on the node itself (--dir) without the current one
    Password {
        /// File whose first line is the new password [default: asked for]
        #[arg(long)]
        new_password_file: Option<PathBuf>,
        /// Make one and print it
        #[arg(long, conflicts_with = "new_password_file")]
        generate: bool,
    },
}

#[derive(Args, Debug)]
struct SetupArguments {
    /// The setup code on the machine's screen
    #[arg(long, requires = "name", requires = "address")]
    code: Option<String>,
    /// The node's name: 1 to 63 letters, digits and hyphens
    #[arg(long, requires = "code")]
    name: Option<String>,
    /// The node's address with its prefix length, for good: 192.0.2.11/24
    #[arg(long, requires = "code")]
    address: Option<String>,
    /// data or witness
    #[arg(long, requires = "code", default_value = "data")]
    role: String,
    /// Where packets for other networks go [default: nowhere]
    #[arg(long, requires = "code")]
    gateway: Option<String>,
    /// Of the second adapter, for replication, with its prefix length [default: over the first one]
    #[arg(long, requires = "code")]
    mirror_address: Option<String>,
    /// Addresses of DNS servers, separated by commas
    #[arg(long, requires = "code")]
    dns: Option<String>,
    /// Names or addresses of NTP servers, separated by commas
    #[arg(long, requires = "code")]
    ntp: Option<String>,
    /// A disk for data, as often as there are [default: all without partitions]
    #[arg(long = "disk", requires = "code")]
    disks: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum VolumeCommand {
    /// List the volumes
    List,
    /// Create a volume, mirrored on two data nodes
    Create {
        /// 1 to 63 letters, digits and hyphens
        name: String,
        /// For example 100GiB (binary units, a multiple of 4096 bytes)
        #[arg(value_parser = text::parse_size)]
        size: base::ByteCount,
        /// Size of the physical blocks that initiators are told: 4096 bytes (512e) or 512 (512n); fixed for good
        #[arg(long, default_value = "512e")]
        block_format: BlockFormat,
        /// Offer no UNMAP; fixed for good
        #[arg(long)]
        no_thin: bool,
    },
    /// Make a volume larger while it is used
    Grow {
        /// The volume
        name: String,
        /// The new size, up to 62TiB; initiators rescan to see it
        #[arg(value_parser = text::parse_size)]
        size: base::ByteCount,
    },
    /// Delete a volume that no target uses; its data is lost
    Delete {
        /// The volume
        name: String,
    },
}

#[derive(Subcommand, Debug)]
enum NodeCommand {
    /// List the nodes
    List,
    /// Make this node the first of a new cluster
    CreateCluster {
        /// Where initiators will connect: ADDRESS[:PORT], else port 3260
        #[arg(long, value_parser = portal)]
        portal: SocketAddr,
    },
    /// Show a code with which one other node can pair with this one
    Offer,
    /// Add the node that shows a code to this node's cluster
    Pair {
        /// Its cluster port: ADDRESS[:PORT], else port 7780
        #[arg(value_parser = cluster_port)]
        address: SocketAddr,
        /// The code
        code: String,
    },
    /// Take a node out of the cluster, with its copies of volumes: it is lost for good, or is to be replaced
    Remove {
        /// Its name
        name: String,
    },
    /// Change this appliance's address, as long as it is in no cluster; it restarts
    Network {
        /// For example 192.0.2.11/24
        address: String,
        /// Where packets for other networks go [default: nowhere]
        #[arg(long)]
        gateway: Option<IpAddr>,
    },
}

fn portal(text: &str) -> Result<SocketAddr, String> {
    text::parse_address(text, 3260)
}

fn cluster_port(text: &str) -> Result<SocketAddr, String> {
    text::parse_address(text, Ports::default().cluster)
}

/// What a command has to say.
struct Report {
    /// Fields in the order of the types, as the manual shows them.
    json: String,
    human: String,
}

impl Report {
    fn new(value: &impl Serialize, human: String) -> Result<Self, ClientError> {
        let json =
            serde_json::to_string_pretty(value).map_err(|e| ClientError::new("internal", e.to_string()))?;
        Ok(Self { json, human })
    }

    fn done(human: String) -> Self {
        Self { json: "{\n  \"done\": true\n}".to_owned(), human }
    }
}

/// Runs one command and prints its answer. Needs no tokio runtime around it.
#[must_use]
pub fn ctl(args: &CtlArguments) -> ExitCode {
    let json = args.json;
    let outcome = run(args);
    let printed = match &outcome {
        Ok(report) if json => writeln!(std::io::stdout(), "{}", report.json),
        Ok(report) => write!(std::io::stdout(), "{}", report.human),
        Err(e) if json => {
            let body = serde_json::json!({ "error": { "kind": e.kind, "message": e.message } });
            writeln!(std::io::stderr(), "{body}")
        }
        Err(e) => writeln!(std::io::stderr(), "futago ctl: {}", e.message),
    };
    // A reader that went away (`| head`) is no failure of the command.
    let broken = printed.is_err_and(|e| e.kind() != std::io::ErrorKind::BrokenPipe);
    if outcome.is_ok() && !broken { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(args: &CtlArguments) -> Result<Report, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ClientError::new("internal", format!("no runtime: {e}")))?;
    let client = connect(args)?;
    runtime.block_on(execute(&client, args))
}

fn connect(args: &CtlArguments) -> Result<Client, ClientError> {
    let Some(url) = &args.url else {
        let dir = args.dir.as_deref().unwrap_or(Path::new(DEFAULT_DIR));
        return Ok(Client::local(dir));
    };
    let trust = trust("--url needs --fingerprint SHA256", args.fingerprint.as_deref(), args.insecure)?;
    // What can't be used is said before the password is asked for.
    Client::remote(url, &args.user, "", trust.clone())?;
    Client::remote(url, &args.user, &password(args)?, trust)
}

/// Which certificate a console must have; `needed` says how to tell.
fn trust(needed: &str, fingerprint: Option<&str>, insecure: bool) -> Result<Trust, ClientError> {
    match (fingerprint, insecure) {
        (Some(fingerprint), _) => Ok(Trust::Fingerprint(fingerprint.to_owned())),
        (None, true) => Ok(Trust::Anyone),
        (None, false) => Err(ClientError::new(
            "invalid",
            format!(
                "{needed}, so that the password goes to the right console; print it on the node with `futago ctl --dir \
                 DIR fingerprint`, or read it on the console's Nodes page (or say --insecure)"
            ),
        )),
    }
}

/// From the file, the environment, or the terminal.
fn password(args: &CtlArguments) -> Result<String, ClientError> {
    if let Some(path) = &args.password_file {
        return first_line(path);
    }
    std::env::var(PASSWORD_VARIABLE).or_else(|_| ask("Password: ", "--password-file"))
}

fn first_line(path: &Path) -> Result<String, ClientError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| ClientError::new("invalid", format!("{}: {e}", path.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn ask(prompt: &str, instead: &str) -> Result<String, ClientError> {
    rpassword::prompt_password(prompt)
        .map_err(|e| ClientError::new("invalid", format!("no {instead}, and no terminal to ask on: {e}")))
}

async fn change_password(
    client: &Client,
    file: Option<&Path>,
    generate: bool,
) -> Result<Report, ClientError> {
    let password = match file {
        _ if generate => {
            crate::password::generate().map_err(|e| ClientError::new("internal", e.to_string()))?
        }
        Some(path) => first_line(path)?,
        None => {
            let password = ask("New password: ", "--new-password-file")?;
            if ask("The same again: ", "--new-password-file")? != password {
                return Err(ClientError::new("invalid", "the two passwords differ"));
            }
            password
        }
    };
    client.change_password(&password).await?;
    if !generate {
        return Ok(Report::done("the admin password is changed\n".to_owned()));
    }
    Report::new(&serde_json::json!({ "password": password }), format!("{password}\n"))
}

async fn execute(client: &Client, args: &CtlArguments) -> Result<Report, ClientError> {
    match &args.command {
        Command::Status => {
            let status = client.status().await?;
            Report::new(&status, output::status(&status))
        }
        Command::Volume(command) => volume(client, command).await,
        Command::Target(command) => targets::run(client, command).await,
        Command::Node(command) => node(client, command).await,
        Command::Handover { volume, to } => {
            client.hand_over(volume, to.as_deref()).await?;
            let status = client.status().await?;
            Ok(Report::done(output::handed_over(volume, &status)))
        }
        Command::Verify { volume } => Err(not_available(&format!("verify {volume}"))),
        Command::Events { after } => {
            let events = client.events(*after).await?;
            Report::new(&events, output::events(&events))
        }
        Command::SupportBundle { file } => support_bundle(client, file).await,
        Command::Update(update) => update::run(client, update).await,
        Command::Restart => update::restart(client).await,
        Command::Fingerprint => {
            let sha256 = client.fingerprint().await?;
            Report::new(&serde_json::json!({ "sha256": sha256 }), format!("{sha256}\n"))
        }
        Command::Setup(arguments) => set_up(client, arguments, &password(args)?).await,
        Command::Password { new_password_file, generate } => {
            change_password(client, new_password_file.as_deref(), *generate).await
        }
    }
}

async fn set_up(client: &Client, arguments: &SetupArguments, password: &str) -> Result<Report, ClientError> {
    let Some(code) = &arguments.code else {
        client.setup(password).await?;
        return Ok(Report::done("the admin password is set\n".to_owned()));
    };
    let wanted = Wanted {
        name: arguments.name.clone().unwrap_or_default(),
        role: arguments.role.clone(),
        address: arguments.address.clone().unwrap_or_default(),
        gateway: arguments.gateway.clone().unwrap_or_default(),
        mirror_address: arguments.mirror_address.clone().unwrap_or_default(),
        dns: arguments.dns.clone().unwrap_or_default(),
        ntp: arguments.ntp.clone().unwrap_or_default(),
        disks: (!arguments.disks.is_empty()).then(|| arguments.disks.clone()),
    };
    let set_up = client.set_up_machine(code, password, &wanted).await?;
    let human = format!("set up as {}; its console will be at {}\n", wanted.name, set_up.url);
    Report::new(&set_up, human)
}

async fn volume(client: &Client, command: &VolumeCommand) -> Result<Report, ClientError> {
    match command {
        VolumeCommand::List => {
            let volumes = client.status().await?.volumes;
            Report::new(&volumes, output::volumes(&volumes))
        }
        VolumeCommand::Create { name, size, block_format, no_thin } => {
            let presentation = Presentation { block_format: *block_format, thin: !no_thin };
            client.create_volume(name, *size, presentation).await?;
            Ok(Report::done(format!("created volume {name}, {size}\n")))
        }
        VolumeCommand::Grow { name, size } => {
            client.grow_volume(name, *size).await?;
            let volumes = client.status().await?.volumes;
            let has_it = volumes.iter().any(|volume| volume.name == *name && volume.size >= *size);
            let what = if has_it { "has" } else { "is growing to" };
            Ok(Report::done(format!("volume {name} {what} {size}\n")))
        }
        VolumeCommand::Delete { name } => {
            client.delete_volume(name).await?;
            Ok(Report::done(format!("deleted volume {name}\n")))
        }
    }
}

async fn node(client: &Client, command: &NodeCommand) -> Result<Report, ClientError> {
    match command {
        NodeCommand::List => {
            let members = client.status().await?.cluster.map(|c| c.members).unwrap_or_default();
            Report::new(&members, output::members(&members))
        }
        NodeCommand::CreateCluster { portal } => {
            client.create_cluster(*portal).await?;
            Ok(Report::done(format!("created a cluster; its portal is {portal}\n")))
        }
        NodeCommand::Offer => {
            let offer = client.offer_pairing().await?;
            let human = format!("pairing code {}, good for {}\n", offer.code, text::duration(offer.valid_s));
            Report::new(&offer, human)
        }
        NodeCommand::Pair { address, code } => {
            client.join(*address, code).await?;
            Ok(Report::done(format!("the node at {address} is in the cluster\n")))
        }
        NodeCommand::Remove { name } => {
            client.remove_member(name).await?;
            let status = client.status().await?;
            let members = status.cluster.map(|c| c.members).unwrap_or_default();
            Report::new(&members, output::removed(name, &members))
        }
        NodeCommand::Network { address, gateway } => {
            client.set_network(address, *gateway).await?;
            Ok(Report::done(format!("the node restarts, and is at {address} then\n")))
        }
    }
}

async fn support_bundle(client: &Client, file: &Path) -> Result<Report, ClientError> {
    let fault = |e: std::io::Error| ClientError::new("invalid", format!("{}: {e}", file.display()));
    // Logs name initiators and addresses: for the owner's eyes. Made first, so that a bad path costs nothing.
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.write(true).create_new(true).open(file).map_err(fault)?;
    let written = match client.support_bundle().await {
        Ok(archive) => {
            let bytes = archive.len() as u64;
            out.write_all(&archive).and_then(|()| out.sync_all()).map(|()| bytes).map_err(fault)
        }
        Err(error) => Err(error),
    };
    match written {
        Ok(bytes) => {
            let human = format!("wrote {} ({})\n", file.display(), base::ByteCount(bytes));
            Report::new(&serde_json::json!({ "file": file, "bytes": bytes }), human)
        }
        Err(error) => {
            // Half an archive is worse than none; the first error is the one to tell.
            let _ = std::fs::remove_file(file);
            Err(error)
        }
    }
}

fn not_available(what: &str) -> ClientError {
    ClientError::new("not_available", format!("{what}: not available in this version"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Wrapper {
        #[command(flatten)]
        ctl: CtlArguments,
    }

    fn parse(line: &str) -> Result<CtlArguments, clap::Error> {
        Wrapper::try_parse_from(line.split(' ')).map(|w| w.ctl)
    }

    #[test]
    fn the_contract_s_commands_are_understood() {
        <Wrapper as clap::CommandFactory>::command().debug_assert();
        for line in [
            "ctl --dir d status --json",
            "ctl volume create demo 10GiB",
            "ctl volume grow demo 20GiB",
            "ctl volume delete demo",
            "ctl volume create demo 10GiB --block-format 512n --no-thin",
            "ctl target map iqn.2026-11.a:b 0 demo",
            "ctl target map iqn.2026-11.a:b 0 demo --read-only --initiators iqn.2026-11.x:*,iqn.2026-11.y:?",
            "ctl target change iqn.2026-11.a:b 0 --writable --everyone",
            "ctl target allow iqn.2026-11.a:b iqn.2026-11.x:*",
            "ctl target deny iqn.2026-11.a:b iqn.2026-11.x:* --open",
            "ctl target chap iqn.2026-11.a:b --initiator iqn.2026-11.x:* --user u --secret-file f",
            "ctl target chap iqn.2026-11.a:b --user u --mutual-user t --mutual-secret-file f",
            "ctl target chap iqn.2026-11.a:b --off",
            "ctl target show iqn.2026-11.a:b",
            "ctl node create-cluster --portal 127.0.0.50:3260",
            "ctl node pair 127.0.0.12:7780 1-2",
            "ctl node pair 127.0.0.12 1-2",
            "ctl member remove b",
            "ctl node remove b",
            "ctl node network 192.0.2.11/24 --gateway 192.0.2.1",
            "ctl --url https://h --insecure handover demo --to b",
            "ctl verify demo",
            "ctl events --after 7",
            "ctl support-bundle x.tar",
            "ctl update",
            "ctl update x.update --restart",
            "ctl --url https://h update --rolling x.update --without w",
            "ctl restart",
            "ctl --url https://h --insecure setup",
            "ctl setup --url https://h --code k7mf-2xq9 --name a --address 192.0.2.11/24",
            "ctl setup --url https://h --code c --name w --address 192.0.2.13/24 --role witness --gateway 192.0.2.1",
            "ctl setup --url https://h --code c --name a --address 192.0.2.11/24 --disk x --disk y --mirror-address 198.51.100.1/30 --dns 192.0.2.53 --ntp a,b",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        let args = parse("ctl --url https://h --user root target chap iqn.2026-11.a:b --off").unwrap();
        assert_eq!(args.user, "root");
        assert!(parse("ctl --dir d --url https://h status").is_err());
        for line in [
            "ctl volume create demo 5",
            "ctl update --restart",
            "ctl update x.update --rolling --restart",
            "ctl update x.update --peer https://b=ab",
            "ctl volume create demo 1GiB --block-format 4kn",
            "ctl target change iqn.2026-11.a:b 0",
            "ctl target map iqn.2026-11.a:b 16384 demo",
            "ctl target unmap iqn.2026-11.a:b x",
            "ctl node create-cluster --portal foo",
            "ctl target change iqn.2026-11.a:b 0 --writable --read-only",
            "ctl target chap iqn.2026-11.a:b",
            "ctl target chap iqn.2026-11.a:b --user u --off",
            "ctl target chap iqn.2026-11.a:b --user u --secret on-the-command-line",
            "ctl setup --url https://h --code c --name a",
            "ctl setup --url https://h --name a --address 192.0.2.11/24",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_password_is_never_sent_to_an_unknown_console() {
        let args = parse("ctl --url https://127.0.0.1:1 status").unwrap();
        let error = connect(&args).map(|_| ()).unwrap_err();
        assert!(error.message.contains("--fingerprint"), "{}", error.message);
        for (line, said) in [
            ("ctl --url http://h --insecure --password-file /none status", "https://HOST"),
            ("ctl --url https://h --fingerprint 00 --password-file /none status", "SHA-256"),
        ] {
            let error = connect(&parse(line).unwrap()).map(|_| ()).unwrap_err();
            assert!(error.message.contains(said), "{}", error.message);
        }
    }
}
