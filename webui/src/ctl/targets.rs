//! `futago ctl target …`, and where it finds secrets: never on the command line, which every user of the machine sees.

use super::{Report, output};
use crate::client::{Client, ClientError};
use clap::{ArgGroup, Args, Subcommand};
use control::names::{Pattern, normal};
use control::targets::{Chap, Login, MAX_LUN, Secret};
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

/// The secret of the initiator, when there is no `--secret-file`.
const SECRET_VARIABLE: &str = "FUTAGO_CHAP_SECRET";
/// The secret of the target, when there is no `--mutual-secret-file`.
const MUTUAL_VARIABLE: &str = "FUTAGO_CHAP_MUTUAL_SECRET";

#[derive(Subcommand, Debug)]
pub(super) enum TargetCommand {
    /// List the targets
    List,
    /// Show one target: LUNs, who may log in, and who is logged in
    Show {
        /// iSCSI name
        iqn: String,
    },
    /// Create a target
    Create {
        /// iSCSI name: iqn.YYYY-MM.domain:text, eui. or naa.
        iqn: String,
    },
    /// Delete a target that has no LUN
    Delete {
        /// iSCSI name
        iqn: String,
    },
    /// Show a volume as a LUN
    Map {
        /// iSCSI name
        iqn: String,
        /// 0 to 16383
        #[arg(value_parser = lun)]
        lun: u16,
        /// The volume
        volume: String,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
        /// Show it only to these of those who may log in: names or patterns with * and ?
        #[arg(long, value_delimiter = ',', value_name = "PATTERN,…")]
        initiators: Vec<String>,
    },
    /// Change how a LUN is shown, while it is in use
    #[command(group(ArgGroup::new("change").required(true).multiple(true)))]
    Change {
        /// iSCSI name
        iqn: String,
        /// The LUN
        #[arg(value_parser = lun)]
        lun: u16,
        /// Refuse writes
        #[arg(long, group = "change", conflicts_with = "writable")]
        read_only: bool,
        /// Take writes
        #[arg(long, group = "change")]
        writable: bool,
        /// Show it only to these of those who may log in: names or patterns with * and ?
        #[arg(
            long,
            group = "change",
            value_delimiter = ',',
            value_name = "PATTERN,…",
            conflicts_with = "everyone"
        )]
        initiators: Vec<String>,
        /// Show it to all who may log in
        #[arg(long, group = "change")]
        everyone: bool,
    },
    /// Take a LUN away
    Unmap {
        /// iSCSI name
        iqn: String,
        /// The LUN
        #[arg(value_parser = lun)]
        lun: u16,
    },
    /// Let initiators log in; the first rule shuts out everyone whom no rule covers
    Allow {
        /// iSCSI name of the target
        iqn: String,
        /// iSCSI name of the initiator, or a pattern with * and ?
        pattern: String,
    },
    /// Take such a rule back; sessions that no other rule covers end
    Deny {
        /// iSCSI name of the target
        iqn: String,
        /// The rule
        pattern: String,
        /// Even the last rule, so that everyone may log in
        #[arg(long)]
        open: bool,
    },
    /// Set or remove CHAP; it counts from the next login on
    Chap(ChapArguments),
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true).args(["user", "off"])))]
pub(super) struct ChapArguments {
    /// iSCSI name of the target
    iqn: String,
    /// Only for the rule of these initiators
    #[arg(long, value_name = "PATTERN")]
    initiator: Option<String>,
    /// CHAP name of the initiator
    #[arg(long)]
    user: Option<String>,
    /// File whose first line is its secret, 12 to 255 bytes [default: $FUTAGO_CHAP_SECRET, else a line of standard
    /// input]
    #[arg(long, requires = "user")]
    secret_file: Option<PathBuf>,
    /// CHAP name with which the target proves itself
    #[arg(long, requires = "user")]
    mutual_user: Option<String>,
    /// File whose first line is the target's secret [default: $FUTAGO_CHAP_MUTUAL_SECRET, else a line of standard
    /// input]
    #[arg(long, requires = "mutual_user")]
    mutual_secret_file: Option<PathBuf>,
    /// Ask for no CHAP any more
    #[arg(long)]
    off: bool,
}

fn lun(text: &str) -> Result<u16, String> {
    let lun = text.parse().ok().filter(|lun| *lun <= MAX_LUN);
    lun.ok_or_else(|| format!("a LUN is a number from 0 to {MAX_LUN}"))
}

fn patterns(texts: &[String]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::typed(text)).collect()
}

pub(super) async fn run(client: &Client, command: &TargetCommand) -> Result<Report, ClientError> {
    match command {
        TargetCommand::List => {
            let status = client.status().await?;
            let portal = status.cluster.as_ref().and_then(|c| c.portal);
            Report::new(&status.targets, output::targets(&status.targets, portal))
        }
        TargetCommand::Show { iqn } => show(client, iqn).await,
        TargetCommand::Create { iqn } => {
            client.create_target(iqn).await?;
            Ok(Report::done(format!("created target {}\n", normal(iqn))))
        }
        TargetCommand::Delete { iqn } => {
            client.delete_target(iqn).await?;
            Ok(Report::done(format!("deleted target {iqn}\n")))
        }
        TargetCommand::Map { iqn, lun, volume, read_only, initiators } => {
            client.map_lun(iqn, *lun, volume, *read_only, &patterns(initiators)).await?;
            let how = if *read_only { ", read-only" } else { "" };
            Ok(Report::done(format!("volume {volume} is LUN {lun} of {iqn}{how}\n")))
        }
        TargetCommand::Change { iqn, lun, read_only, writable, initiators, everyone } => {
            let shown = patterns(initiators);
            let shown = (*everyone || !shown.is_empty()).then_some(shown.as_slice());
            client.change_lun(iqn, *lun, (*read_only || *writable).then_some(*read_only), shown).await?;
            Ok(Report::done(format!("changed LUN {lun} of {iqn}\n")))
        }
        TargetCommand::Unmap { iqn, lun } => {
            client.unmap_lun(iqn, *lun).await?;
            Ok(Report::done(format!("took LUN {lun} away from {iqn}\n")))
        }
        TargetCommand::Allow { iqn, pattern } => {
            client.allow_initiator(iqn, &Pattern::typed(pattern)).await?;
            Ok(Report::done(format!("{pattern} may log in to {iqn}\n")))
        }
        TargetCommand::Deny { iqn, pattern, open } => {
            client.deny_initiator(iqn, &Pattern::typed(pattern), *open).await?;
            Ok(Report::done(format!("{iqn} has no rule for {pattern} any more\n")))
        }
        TargetCommand::Chap(arguments) => chap(client, arguments).await,
    }
}

async fn show(client: &Client, iqn: &str) -> Result<Report, ClientError> {
    let iqn = normal(iqn);
    let status = client.status().await?;
    let Some(target) = status.targets.iter().find(|target| target.iqn == iqn) else {
        return Err(ClientError::new("not_found", format!("target {iqn} does not exist")));
    };
    let sessions: Vec<_> = status.sessions.iter().filter(|session| session.target == iqn).collect();
    let json = serde_json::json!({ "target": target, "sessions": sessions });
    Report::new(&json, output::target(target, &sessions))
}

async fn chap(client: &Client, arguments: &ChapArguments) -> Result<Report, ClientError> {
    let ChapArguments { iqn, initiator, user, secret_file, mutual_user, mutual_secret_file, .. } = arguments;
    let pattern = initiator.as_deref().map(Pattern::typed);
    let whose = pattern.as_ref().map_or_else(String::new, |pattern| format!(" for {pattern}"));
    let Some(user) = user else {
        client.set_chap(iqn, pattern.as_ref(), None).await?;
        return Ok(Report::done(format!("{iqn} asks for no CHAP{whose}\n")));
    };
    let secret =
        secret(secret_file.as_deref(), SECRET_VARIABLE, "--secret-file", "Secret of the initiator: ")?;
    let mutual = match mutual_user {
        None => None,
        Some(user) => {
            let file = mutual_secret_file.as_deref();
            let secret =
                self::secret(file, MUTUAL_VARIABLE, "--mutual-secret-file", "Secret of the target: ")?;
            Some(Login { user: user.clone(), secret })
        }
    };
    let kind = if mutual.is_some() { "mutual CHAP" } else { "CHAP" };
    let chap = Chap { user: user.clone(), secret, mutual };
    // Judged here too, so that nothing that can't be used travels.
    chap.check().map_err(|reason| ClientError::new("invalid", reason))?;
    client.set_chap(iqn, pattern.as_ref(), Some(&chap)).await?;
    Ok(Report::done(format!("{iqn} asks for {kind}{whose} from the next login on\n")))
}

/// From the file, the environment, the terminal, or a line of standard input.
fn secret(file: Option<&Path>, variable: &str, option: &str, prompt: &str) -> Result<Secret, ClientError> {
    let fault = |reason: String| ClientError::new("invalid", reason);
    let text = if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|e| fault(format!("{}: {e}", path.display())))?;
        text.lines().next().unwrap_or_default().to_owned()
    } else if let Ok(secret) = std::env::var(variable) {
        secret
    } else if std::io::stdin().is_terminal() {
        rpassword::prompt_password(prompt).map_err(|e| fault(format!("the terminal can't be read: {e}")))?
    } else {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        read.map_err(|e| fault(format!("standard input can't be read as text: {e}")))?;
        if line.is_empty() {
            return Err(fault(format!("no secret: give {option}, ${variable}, or a line on standard input")));
        }
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    Ok(Secret::new(text))
}
