//! What an administrator does once: create the cluster, pair the nodes, make the volume and the target, set the
//! console's password. Each step is skipped if it was done before, so a start that was cut short goes on.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base::ByteCount;
use control::api::{Answer, Command, Status};
use control::targets::Presentation;
use webui::client::{Client, Trust};
use webui::errors::ErrorKind;
use webui::upstream::Upstream;

use super::layout::{self, DemoNode, IQN, NODES, USER, VOLUME};

/// How long a node's services may take to answer.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(30);
/// The password of this demo's consoles, for `demo.json` (0600).
const PASSWORD_FILE: &str = "password";

/// The password that the demo made for its consoles, and the nodes that were given another since.
pub(super) struct Password {
    pub(super) text: String,
    pub(super) changed_at: Vec<&'static str>,
}

/// Brings the nodes to a served volume; answers the console password.
pub(super) async fn set_up(dir: &Path, size: ByteCount) -> anyhow::Result<Password> {
    let [first, others @ ..] = NODES;
    let upstream = Upstream::new(&first.dir(dir));
    let mut status = wait_status(&upstream, first).await?;
    if status.cluster.is_none() {
        command(&upstream, &Command::CreateCluster { portal: layout::portal() }).await?;
        status = wait_status(&upstream, first).await?;
    }
    for node in others {
        let members = status.cluster.as_ref().map_or(&[][..], |cluster| &cluster.members);
        if !members.iter().any(|member| member.name == node.name) {
            pair(&upstream, dir, node).await.with_context(|| format!("pairing with {}", node.name))?;
        }
    }
    if !status.volumes.iter().any(|volume| volume.name == VOLUME) {
        wait_space(&upstream, first, size).await?;
        let presentation = Presentation::default();
        command(&upstream, &Command::CreateVolume { name: VOLUME.into(), size, presentation }).await?;
    }
    if !status.targets.iter().any(|target| target.iqn == IQN) {
        command(&upstream, &Command::CreateTarget { iqn: IQN.into() }).await?;
    }
    if !status.targets.iter().any(|target| target.iqn == IQN && !target.luns.is_empty()) {
        let map = Command::MapLun {
            iqn: IQN.into(),
            lun: 0,
            volume: VOLUME.into(),
            read_only: false,
            initiators: Vec::new(),
        };
        command(&upstream, &map).await?;
    }
    password(dir).await
}

async fn command(upstream: &Upstream, command: &Command) -> anyhow::Result<Answer> {
    Ok(upstream.command(command).await?)
}

async fn wait_status(upstream: &Upstream, node: DemoNode) -> anyhow::Result<Status> {
    let deadline = Instant::now() + SERVICE_TIMEOUT;
    loop {
        match upstream.status().await {
            Ok(status) => return Ok(status),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("node {} does not answer", node.name));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until every data node has told its space.
async fn wait_space(upstream: &Upstream, node: DemoNode, size: ByteCount) -> anyhow::Result<()> {
    let deadline = Instant::now() + SERVICE_TIMEOUT;
    loop {
        let status = wait_status(upstream, node).await?;
        let members = status.cluster.map(|cluster| cluster.members).unwrap_or_default();
        let data = members.iter().filter(|member| member.role == control::settings::Role::Data);
        if data.clone().count() == 2 && data.clone().all(|member| member.free.0 > size.0) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the data nodes do not offer {size} of disk space; problems: {:?}", status.problems);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn pair(upstream: &Upstream, dir: &Path, node: DemoNode) -> anyhow::Result<()> {
    let offering = Upstream::new(&node.dir(dir));
    wait_status(&offering, node).await?;
    let code = match offering.command(&Command::OfferPairing).await {
        Ok(Answer::PairingCode { code, .. }) => code,
        Ok(_) => bail!("no pairing code"),
        Err(error) if error.kind == ErrorKind::Exists => {
            let own = node.dir(dir);
            bail!(
                "{error}; if it was removed from the demo's, delete {} to have it as a new node",
                own.display()
            );
        }
        Err(error) => return Err(error.into()),
    };
    command(upstream, &Command::Pair { address: node.cluster_address(), code }).await.map(drop)
}

/// The console password: made once, told to each console that has none yet.
async fn password(dir: &Path) -> anyhow::Result<Password> {
    let path = dir.join(PASSWORD_FILE);
    let password = match fs::read_to_string(&path) {
        Ok(password) => password,
        Err(_) => {
            let password = webui::password::generate()?;
            layout::write_private(&path, password.as_bytes())?;
            password
        }
    };
    let mut changed_at = Vec::new();
    for node in NODES {
        let Some(url) = node.web() else { continue };
        let client = Client::local(&node.dir(dir));
        let deadline = Instant::now() + SERVICE_TIMEOUT;
        while let Err(error) = client.setup(&password).await {
            if error.is_done_already() {
                let signed_in = Client::remote(&url, USER, &password, Trust::Anyone)?.services().await;
                if signed_in.is_err_and(|error| error.kind == "unauthorized") {
                    changed_at.push(node.name);
                }
                break;
            }
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("console of node {}", node.name));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(Password { text: password, changed_at })
}
