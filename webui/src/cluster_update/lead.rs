//! The loop of the node that leads: looks at all nodes, has [`Rolling`] decide, does that, and tells everybody.

use super::Led;
use crate::app::Shared;
use crate::client::{Client, ClientError};
use control::update::{ClusterUpdate, ClusterUpdateState};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};
use update::rolling::{Decision, Order, Rolling, View};

/// Between two looks.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nodes that do not answer are told the end again and again: somebody may be at work on one.
const FAREWELL: Duration = Duration::from_secs(3600);

/// An update that this node leads.
pub(super) struct Lead {
    app: Shared,
    led: Led,
    update: ClusterUpdate,
    machine: Rolling,
    nodes: BTreeMap<String, Client>,
    begun: Instant,
}

impl Lead {
    pub(super) fn new(
        app: Shared,
        update: ClusterUpdate,
        machine: Rolling,
        nodes: BTreeMap<String, Client>,
    ) -> Self {
        let led = Led::of(&update);
        app.cluster_updates.lock().led = Some(led.clone());
        Self { app, led, update, machine, nodes, begun: Instant::now() }
    }

    /// Until it has ended, or another node leads.
    pub(super) async fn run(mut self) {
        let ended = self.lead().await;
        let is_told = ended.is_some();
        if let Some((state, text)) = ended {
            self.update.state = state;
            self.say(text);
        }
        self.app.cluster_updates.leave(&self.led);
        if is_told {
            self.tell_the_end().await;
        }
    }

    /// How it has ended; `None`: another node leads now.
    async fn lead(&mut self) -> Option<(ClusterUpdateState, String)> {
        while self.app.cluster_updates.leads(&self.update) {
            let view = look(&self.nodes, Some(&self.update)).await;
            match self.machine.poll(&view, self.begun.elapsed()) {
                Decision::Wait(why) => {
                    self.say(why);
                    tokio::time::sleep(PERIOD).await;
                }
                Decision::Do(_) if self.is_own_turn() => match self.give_away().await {
                    Ok(()) => return None,
                    Err(reason) => return Some((ClusterUpdateState::Stopped, reason)),
                },
                Decision::Do(order) => {
                    self.say(say(&order));
                    if let Err(error) = self.telling(&self.update, self.carry_out(&order)).await {
                        self.machine.handle_failure(&error.message);
                    }
                }
                Decision::Finished => {
                    let text = format!("every node runs release {}", self.update.release);
                    return Some((ClusterUpdateState::Finished, text));
                }
                Decision::Stopped(reason) => return Some((ClusterUpdateState::Stopped, reason)),
            }
        }
        None
    }

    fn is_own_turn(&self) -> bool {
        self.machine.nodes().first().is_some_and(|node| *node == self.app.cluster_updates.me)
    }

    /// For the pages of all nodes: the others hear it with the next look.
    fn say(&mut self, text: String) {
        let nodes = self.machine.progress();
        if text != self.update.text {
            tracing::info!(release = self.update.release, "{text}");
        }
        self.update = ClusterUpdate { text, nodes, ..self.update.clone() };
        // One that is led by somebody else by now stays as it is known.
        if self.app.cluster_updates.leads(&self.update) {
            self.app.cluster_updates.hear(self.update.clone());
        }
    }

    /// Does `work` and tells everybody `update` meanwhile: work may take longer than a leader may be silent.
    async fn telling<T>(&self, update: &ClusterUpdate, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.tell(update) => match never {},
        }
    }

    async fn tell(&self, update: &ClusterUpdate) -> Infallible {
        let me = &self.app.cluster_updates.me;
        let others = || self.nodes.iter().filter(|(name, _)| **name != update.leader && *name != me);
        loop {
            if update.leader != *me {
                self.app.cluster_updates.hear(update.clone());
            }
            // Who does not hear it now hears the next one.
            join_all(others().map(|(_, client)| soon(client.tell_cluster_update(update)))).await;
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn carry_out(&self, order: &Order) -> Result<(), ClientError> {
        match order {
            Order::Install { node } => {
                send(self.find(node)?, "/api/v1/update", &self.app.cluster_updates.bundle).await
            }
            Order::HandOver { volume, to } => self.find(to)?.hand_over(volume, Some(to)).await,
            Order::Restart { node } => self.find(node)?.restart().await,
        }
    }

    fn find(&self, node: &str) -> Result<&Client, ClientError> {
        let unknown = || ClientError::new("invalid", format!("no console of node {node} is known"));
        self.nodes.get(node).ok_or_else(unknown)
    }

    /// Another node is to do to this one what is due. Whatever comes of it, this one does not lead any more, unless it
    /// is to tell why nobody does.
    async fn give_away(&mut self) -> Result<(), String> {
        let me = self.app.cluster_updates.me.clone();
        let next = self.machine.successor(&me).map(str::to_owned);
        let next = next.ok_or("there is no other node to lead while this one is updated")?;
        let fault = |error: ClientError| format!("node {next} does not lead on: {}", error.message);
        let client = self.find(&next).map_err(fault)?.clone();
        let moves = self.update.moves.saturating_add(1);
        let text = format!("node {next} leads on, as it is the turn of node {me}");
        tracing::info!(release = self.update.release, "{text}");
        let given = ClusterUpdate {
            leader: next.clone(),
            moves,
            text,
            nodes: self.machine.progress(),
            ..self.update.clone()
        };
        self.app.cluster_updates.hear(given.clone());
        let path = format!("/api/v1/update/cluster/lead?id={}", given.id);
        let sent = async {
            client.tell_cluster_update(&given).await?;
            send(&client, &path, &self.app.cluster_updates.bundle).await
        };
        self.telling(&given, sent).await.map_err(|error| {
            // Should it lead all the same, its next word is as new as this one.
            self.update.moves = moves;
            self.app.cluster_updates.hear(self.update.clone());
            fault(error)
        })
    }

    /// A node that does not answer now is to know it later.
    async fn tell_the_end(&self) {
        let mut left: BTreeSet<&String> =
            self.nodes.keys().filter(|name| **name != self.update.leader).collect();
        let begun = Instant::now();
        while !left.is_empty() && self.app.cluster_updates.leads(&self.update) && begun.elapsed() < FAREWELL {
            let tell = async |name: &String| {
                let told = soon(self.find(name).ok()?.tell_cluster_update(&self.update)).await;
                told.map(|()| name.clone())
            };
            let told = join_all(left.iter().map(|name| tell(name))).await;
            left.retain(|name| !told.contains(&Some((*name).clone())));
            tokio::time::sleep(PERIOD).await;
        }
    }
}

fn say(order: &Order) -> String {
    match order {
        Order::Install { node } => format!("node {node}: sending the update"),
        Order::HandOver { volume, to } => format!("handing volume {volume} over to node {to}"),
        Order::Restart { node } => format!("node {node}: restarting"),
    }
}

async fn send(client: &Client, path: &str, bundle: &Path) -> Result<(), ClientError> {
    let opened = async {
        let file = tokio::fs::File::open(bundle).await?;
        let len_bytes = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, len_bytes))
    };
    let fault = |e| ClientError::new("internal", format!("the update is gone: {e}"));
    let (file, len_bytes) = opened.await.map_err(fault)?;
    client.send_update(path, file, len_bytes).await
}

/// What all of them say now, asked at once: answers one after the other would be of different moments. They are told
/// `update` as well.
pub(super) async fn look(nodes: &BTreeMap<String, Client>, update: Option<&ClusterUpdate>) -> View {
    let tell = async |client: &Client, update: Option<&ClusterUpdate>| {
        if let Some(update) = update {
            // Who does not hear it now hears the next one.
            let _ = soon(client.tell_cluster_update(update)).await;
        }
    };
    let ask = async |(name, client): (&String, &Client)| {
        let told = update.filter(|update| update.leader != *name);
        let (status, update, ()) =
            tokio::join!(soon(client.status()), soon(client.update_status()), tell(client, told));
        (name.clone(), status, update)
    };
    let mut view = View::default();
    for (name, status, update) in join_all(nodes.iter().map(ask)).await {
        if let Some(status) = status {
            view.statuses.insert(name.clone(), status);
        }
        if let Some(update) = update {
            view.nodes.insert(name, update);
        }
    }
    view
}

/// A node that goes down answers nobody: it is looked at again later.
async fn soon<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
}
