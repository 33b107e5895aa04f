//! Asks the node, on a thread of its own.

use crate::model::{Command, Event, Place, Snapshot};
use crate::probe;
use crate::shell::BUSYBOX;
use crate::stake::{self, Serving};
use anyhow::Context;
use control::paths;
use rustix::time::{ClockId, Timespec, clock_settime};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webui::client::{Client, ClientError};
use webui::machine;

/// Between two questions for the state: over a serial line, more often would be noise.
const INTERVAL: Duration = Duration::from_secs(2);
/// The state is a quick answer, or none.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is said when the machine has been told to.
const RESTARTS: &str = "The node goes down, then restarts.";

/// Carries commands out and tells the state, until the menu is gone.
pub(crate) fn serve(
    dir: PathBuf,
    place: Place,
    commands: Receiver<Command>,
    events: SyncSender<Event>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    std::thread::Builder::new().name("node".into()).spawn(move || {
        let client = Client::local(&dir);
        loop {
            if events.send(Event::Noticed(notices(&dir))).is_err() {
                return;
            }
            if events.send(Event::Asked(runtime.block_on(ask(&client)))).is_err() {
                return;
            }
            match commands.recv_timeout(INTERVAL) {
                Ok(command) => {
                    let ended = runtime.block_on(execute(&client, &dir, &place, command));
                    if events.send(ended).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    })?;
    Ok(())
}

/// None where PID 1 leaves none.
fn notices(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(paths::MACHINE_NOTICES)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn ask(client: &Client) -> Result<Box<Snapshot>, String> {
    let both = async { Ok((client.status().await?, client.fingerprint().await?)) };
    let answered: Result<_, ClientError> =
        tokio::time::timeout(PATIENCE, both).await.map_err(|_| "no answer in 5 s".to_owned())?;
    let (status, fingerprint) = answered.map_err(|error| error.message)?;
    Ok(Box::new(Snapshot { status, fingerprint }))
}

async fn execute(client: &Client, dir: &Path, place: &Place, command: Command) -> Event {
    match command {
        Command::ReadClock => Event::Clock(SystemTime::now()),
        Command::Test(checks) => Event::Tested(probe::run(checks).await),
        other => Event::Ended(change(client, dir, place, other).await),
    }
}

async fn change(client: &Client, dir: &Path, place: &Place, command: Command) -> Result<String, String> {
    match command {
        Command::OfferPairing => {
            let offer = client.offer_pairing().await.map_err(|error| error.message)?;
            Ok(format!("Pairing code {}, good for {} minutes.", offer.code, offer.valid_s / 60))
        }
        Command::HandOver(volume) => {
            client.hand_over(&volume, None).await.map_err(|error| error.message)?;
            Ok(format!("{volume} is handed over."))
        }
        Command::ResetPassword => {
            let password = webui::password::generate().map_err(|error| error.to_string())?;
            client.change_password(&password).await.map_err(|error| error.message)?;
            Ok(format!("New password of admin: {password}. It is not shown again."))
        }
        Command::LinkBundle => {
            let link = client.support_bundle_link().await.map_err(|error| error.message)?;
            let url = place.url.as_deref().unwrap_or_default().trim_end_matches('/');
            let minutes = link.valid_s / 60;
            Ok(format!(
                "Good for one download within {minutes} minutes, without sign-in:\n{url}{}",
                link.path
            ))
        }
        // Not through the web process: a wrong address may be what keeps it from running.
        Command::SetNetwork(network) => {
            machine::set_network(dir, network)
                .and_then(|()| machine::restart(dir))
                .map_err(|error| error.message)?;
            Ok(RESTARTS.into())
        }
        Command::Reset(accepted) => {
            let lost = stake::lost_by_reset(&place.name, ask(client).await.as_deref().ok());
            if let (Some(lost), false) = (lost.first(), accepted) {
                return Err(format!("Since you were asked, something changed:\n{lost}"));
            }
            machine::ask_for_reset(dir)
                .and_then(|()| machine::restart(dir))
                .map_err(|error| error.message)?;
            Ok(RESTARTS.into())
        }
        Command::Reboot => machine::restart(dir).map(|()| RESTARTS.into()).map_err(|error| error.message),
        Command::PowerOff => {
            machine::power_off(dir).map(|()| "The node goes down.".into()).map_err(|error| error.message)
        }
        Command::SetClock(time) => {
            // The status on the screen may be two seconds old.
            let known = ask(client).await;
            match stake::serving(&place.name, known.as_deref().ok()) {
                Serving::Volume(volume) => Err(stake::clock_of_primary(&volume)),
                Serving::Nothing | Serving::Unknown => set_clock(time),
            }
        }
        // Not a change, or the driver's own.
        Command::ReadClock | Command::Test(_) | Command::Shell | Command::Redraw | Command::Quit => {
            Ok(String::new())
        }
    }
}

/// Sets the clock, and the one that the machine starts with.
fn set_clock(time: SystemTime) -> Result<String, String> {
    let since = time.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let seconds = since.as_secs().try_into().map_err(|_| "It is too far away.".to_owned())?;
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    tracing::warn!(seconds, "the clock is set");
    clock_settime(ClockId::Realtime, time).map_err(|error| error.to_string())?;
    let kept = process::Command::new(BUSYBOX).args(["hwclock", "--systohc", "--utc"]).output();
    let reason = match kept {
        Ok(output) if output.status.success() => return Ok("The clock is set.".into()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("{BUSYBOX}: {error}"),
    };
    Ok(format!("The clock is set, but the next start begins with the old time:\n{reason}"))
}
