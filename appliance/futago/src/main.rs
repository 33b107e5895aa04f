//! `futago`: the one binary of the appliance. Arguments and subcommands only; the logic stands in the rooms.
//!
//! Exit status: 0 done; 1 it failed, with one line on stderr; 2 wrong arguments; 78 (`EX_CONFIG`) a service found
//! its settings, identity, state or addresses unusable: restarting it would not help.

mod demo;
mod logging;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "futago", version, about = "Two hosts, one mirrored iSCSI datastore", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run two data nodes and a witness on this machine, without root
    Demo(demo::DemoArguments),
    /// Ask or command a node
    Ctl(webui::ctl::CtlArguments),
    /// The menu of a node on a terminal: state, pairing, hand-over, power
    Console(ConsoleArguments),
    /// Run one node as an ordinary process: supervisor and services
    Node(NodeArguments),
    /// Be the appliance's first process (PID 1)
    #[command(hide = true)]
    Init,
    /// Replication engine and iSCSI target (started by the supervisor)
    #[command(hide = true)]
    Storage(NodeArguments),
    /// Take this node's labels off its data disks (process 1, at a factory reset)
    #[command(hide = true)]
    ForgetDisks(NodeArguments),
    /// Cluster manager (started by the supervisor)
    #[command(hide = true)]
    Cluster(NodeArguments),
    /// Web console (started by the supervisor)
    #[command(hide = true)]
    Web(NodeArguments),
    /// Set-up console of a machine without settings (started by PID 1)
    #[command(hide = true)]
    Setup(NodeArguments),
}

#[derive(clap::Args)]
struct NodeArguments {
    /// The node's directory: settings.json and everything that the node keeps
    #[arg(long)]
    dir: PathBuf,
}

#[derive(clap::Args)]
struct ConsoleArguments {
    /// The node's directory
    #[arg(long, default_value = "/var/lib/futago")]
    dir: PathBuf,
    /// The terminal, opened again whenever it vanishes [default: the caller's, until it ends]
    #[arg(long)]
    tty: Option<PathBuf>,
}

/// `EX_CONFIG` of sysexits.h: the supervisor does not restart a service that ends so.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    // The image's kernel starts this binary as /init, with the words of its command line that it does not know.
    if std::process::id() == 1 && Arguments::try_parse().is_err() {
        logging::start();
        return supervisor::run_init();
    }
    match Arguments::parse().command {
        Command::Demo(arguments) => report(demo::run(&arguments), ExitCode::FAILURE),
        Command::Ctl(arguments) => webui::ctl::ctl(&arguments),
        Command::Console(arguments) => {
            // On the caller's terminal there is no room beside the menu.
            if arguments.tty.is_some() {
                logging::start();
            }
            report(console::run(&arguments.dir, arguments.tty.as_deref()), ExitCode::FAILURE)
        }
        Command::Node(arguments) => report(run_node(&arguments), ExitCode::FAILURE),
        Command::Init => supervisor::run_init(),
        Command::Storage(arguments) => service(|| storage::run(&arguments.dir)),
        Command::ForgetDisks(arguments) => {
            let kept = storage::forget_disks(&arguments.dir);
            report(kept.map(|kept| kept.iter().for_each(|line| println!("{line}"))), ExitCode::FAILURE)
        }
        Command::Cluster(arguments) => service(|| manager::run(&arguments.dir)),
        Command::Web(arguments) => service(|| webui::run(&arguments.dir)),
        Command::Setup(arguments) => {
            service(|| webui::run_setup(&arguments.dir, control::settings::Ports::default().web))
        }
    }
}

fn run_node(arguments: &NodeArguments) -> anyhow::Result<()> {
    logging::start();
    supervisor::run_node(&arguments.dir, &std::env::current_exe()?)
}

fn service(run: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    logging::start();
    abort_on_panic();
    report(run(), ExitCode::from(EXIT_CONFIG))
}

/// A service whose state may be half-changed must not go on: one panicking task ends the process, the supervisor starts
/// it anew, and a new storage process serves nothing that it was not promoted for (S6).
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// One line for people on stderr: the error and what it came from.
fn report(result: anyhow::Result<()>, failure: ExitCode) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("futago: {error:#}");
            failure
        }
    }
}
