//! The panels: parts of pages that [`crate::sse`] keeps fresh. Each is one template under `templates/panels`,
//! rendered from one [`Snapshot`] and nothing else, so that every viewer sees the same.

use super::words::{self, State};
use super::{releases, rollout};
use crate::text;
use crate::watch::Snapshot;
use askama::Template;
use control::api::{
    ClusterStatus, Event, MemberStatus, ResyncStatus, Status, VolumeState, VolumeStatus, successor,
};
use control::service::ServiceStatus;
use control::settings::Role;

/// Events on the overview.
const RECENT: usize = 8;

/// All panels, rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    /// How things stand, in a sentence, and what to look at.
    pub(crate) headline: String,
    pub(crate) volumes: String,
    pub(crate) nodes: String,
    pub(crate) connect: String,
    pub(crate) services: String,
    pub(crate) update: String,
    pub(crate) rollout: String,
    pub(crate) events: String,
    /// For screen readers: changes only when there is something to say.
    pub(crate) announce: String,
}

impl Panels {
    /// Each with the id of the element that holds it.
    pub(crate) fn parts(&self) -> [(&'static str, &str); 9] {
        [
            ("panel-headline", &self.headline),
            ("panel-volumes", &self.volumes),
            ("panel-nodes", &self.nodes),
            ("panel-connect", &self.connect),
            ("panel-services", &self.services),
            ("panel-update", &self.update),
            ("panel-rollout", &self.rollout),
            ("panel-events", &self.events),
            ("panel-announce", &self.announce),
        ]
    }
}

#[derive(Template)]
#[template(path = "panels/headline.html")]
struct HeadlinePanel {
    headline: Headline,
    problems: Vec<String>,
    /// `None` also while they may have changed.
    cluster: Option<ClusterFacts>,
    stale: bool,
}

struct ClusterFacts {
    id: String,
    generation: u64,
    leader: String,
    quorum: bool,
}

#[derive(Template)]
#[template(path = "panels/volumes.html")]
struct VolumesPanel {
    volumes: Vec<VolumeCard>,
    stale: Option<String>,
    known: bool,
}

#[derive(Template)]
#[template(path = "panels/nodes.html")]
struct NodesPanel {
    nodes: Vec<NodeCard>,
    stale: Option<String>,
    known: bool,
}

#[derive(Template)]
#[template(path = "panels/connect.html")]
struct ConnectPanel {
    portal: Option<String>,
    targets: Vec<String>,
}

#[derive(Template)]
#[template(path = "panels/services.html")]
struct ServicesPanel {
    services: Vec<ServiceRow>,
    silent: Option<String>,
    node: String,
}

#[derive(Template)]
#[template(path = "panels/events.html")]
struct EventsPanel {
    events: Vec<EventRow>,
    stale: Option<String>,
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Headline {
    pub(crate) state: State,
    pub(crate) title: String,
    pub(crate) text: String,
}

/// One volume.
pub(crate) struct VolumeCard {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) size: String,
    pub(crate) state: State,
    pub(crate) primary: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) copies: Vec<Copy>,
    pub(crate) resync: Option<Resync>,
    pub(crate) verify: Option<String>,
    /// A hand-over can be asked for now.
    pub(crate) can_hand_over: bool,
}

/// One copy of a volume.
pub(crate) struct Copy {
    pub(crate) node: String,
    pub(crate) serves: bool,
    pub(crate) state: State,
}

/// A resync under way.
pub(crate) struct Resync {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) percent: u32,
    pub(crate) rate: String,
    pub(crate) left: String,
    pub(crate) time_left: String,
}

struct NodeCard {
    name: String,
    role: &'static str,
    state: State,
    serving: bool,
    votes: bool,
    /// What is shown of it is old.
    away: bool,
    leads: bool,
    here: bool,
    address: String,
    space: Option<Space>,
}

struct Space {
    used_percent: u64,
    free: String,
    capacity: String,
}

struct ServiceRow {
    title: String,
    name: String,
    state: State,
    restarts: u64,
    since: String,
    since_iso: String,
}

/// One event.
pub(crate) struct EventRow {
    pub(crate) at: String,
    pub(crate) iso: String,
    pub(crate) tone: &'static str,
    pub(crate) severity: String,
    pub(crate) text: String,
}

impl EventRow {
    pub(crate) fn of(event: &Event) -> Self {
        let tone = match event.severity.as_str() {
            "error" => "bad",
            "warning" => "warn",
            _ => "quiet",
        };
        Self {
            at: text::event_time(event),
            iso: text::iso(event.at),
            tone,
            severity: event.severity.clone(),
            text: event.text.clone(),
        }
    }
}

/// The time from which stale data is; `None`: it is fresh.
pub(crate) fn stale_mark(seen: &Snapshot) -> Option<String> {
    seen.is_stale().then(|| text::stamp(seen.heard_at))
}

/// Renders everything.
pub(crate) fn render(seen: &Snapshot) -> Result<Panels, askama::Error> {
    let status = seen.status.as_ref();
    let stale = stale_mark(seen);
    let cluster = status.and_then(|s| s.cluster.as_ref());
    let headline = headline(seen);
    let announce = announcement(&headline, status);
    let volumes = status.map_or(&[][..], |s| &s.volumes);
    Ok(Panels {
        announce,
        headline: HeadlinePanel {
            headline,
            problems: status.map(|s| s.problems.clone()).unwrap_or_default(),
            cluster: cluster.filter(|_| stale.is_none()).map(facts),
            stale: stale.is_some(),
        }
        .render()?,
        volumes: VolumesPanel {
            volumes: volumes.iter().map(|v| VolumeCard::of(v, volumes, stale.is_some())).collect(),
            stale: stale.clone(),
            known: status.is_some(),
        }
        .render()?,
        nodes: NodesPanel {
            nodes: cluster
                .map(|c| words::in_order(&c.members).into_iter().map(|m| node_card(m, c, status)).collect())
                .unwrap_or_default(),
            stale: stale.clone(),
            known: status.is_some(),
        }
        .render()?,
        connect: connect(status).render()?,
        services: ServicesPanel {
            services: seen.services.iter().map(service_row).collect(),
            silent: seen.services_silent.clone(),
            node: status.map(|s| s.node.clone()).unwrap_or_default(),
        }
        .render()?,
        update: releases::panel(seen).render()?,
        rollout: rollout::panel(seen).render()?,
        events: EventsPanel {
            events: seen.events.iter().rev().take(RECENT).map(EventRow::of).collect(),
            stale,
        }
        .render()?,
    })
}

fn facts(cluster: &ClusterStatus) -> ClusterFacts {
    ClusterFacts {
        id: cluster.id.clone(),
        generation: cluster.generation,
        leader: cluster.leader.clone().unwrap_or_else(|| "none known".to_owned()),
        quorum: cluster.quorum,
    }
}

impl VolumeCard {
    pub(crate) fn of(volume: &VolumeStatus, all: &[VolumeStatus], stale: bool) -> Self {
        let served = volume.primary.as_deref().filter(|_| {
            matches!(volume.state, VolumeState::Healthy | VolumeState::Degraded | VolumeState::Resyncing)
        });
        let mut copies: Vec<&String> = volume.replicas.iter().collect();
        copies.sort();
        Self {
            name: volume.name.clone(),
            path: format!("/volumes/{}", text::segment(&volume.name)),
            size: volume.size.to_string(),
            state: words::volume(volume.state),
            primary: served.map(str::to_owned),
            epoch: volume.epoch.0,
            copies: copies.into_iter().map(|n| copy(n, volume, served)).collect(),
            resync: volume.resync.as_ref().map(resync),
            verify: volume
                .verify
                .as_ref()
                .map(|v| format!("Verify: {} % compared, {} differing blocks", v.percent, v.mismatches)),
            can_hand_over: !stale && served.is_some() && successor(all, volume).is_some(),
        }
    }
}

fn copy(node: &str, volume: &VolumeStatus, served: Option<&str>) -> Copy {
    let state = if volume.in_sync.iter().any(|n| n == node) {
        State { word: "in sync", tone: "good", meaning: "Holds every acknowledged write." }
    } else if volume.resync.as_ref().is_some_and(|r| r.target == node) {
        State { word: "resyncing", tone: "busy", meaning: "Being brought up to date." }
    } else {
        State {
            word: "not in sync",
            tone: "warn",
            meaning: "Lacks acknowledged writes; does not count as a copy.",
        }
    };
    Copy { node: node.to_owned(), serves: served == Some(node), state }
}

fn resync(resync: &ResyncStatus) -> Resync {
    Resync {
        source: resync.source.clone(),
        target: resync.target.clone(),
        percent: resync.percent.min(100),
        rate: text::rate(resync.bytes_per_s),
        left: resync.bytes_left.to_string(),
        time_left: resync
            .eta_s
            .map_or_else(|| "time left unknown".to_owned(), |s| format!("{} left", text::duration(s))),
    }
}

fn node_card(member: &MemberStatus, cluster: &ClusterStatus, status: Option<&Status>) -> NodeCard {
    let state = if member.online {
        State { word: "Online", tone: "good", meaning: "Heard from just now." }
    } else {
        State { word: "Offline", tone: "bad", meaning: "Not heard from." }
    };
    let used = member.capacity.0.saturating_sub(member.free.0);
    let space = (member.capacity.0 > 0).then(|| Space {
        used_percent: u64::try_from(u128::from(used) * 100 / u128::from(member.capacity.0)).unwrap_or(100),
        free: member.free.to_string(),
        capacity: member.capacity.to_string(),
    });
    NodeCard {
        name: member.name.clone(),
        role: match member.role {
            Role::Data => "Data node",
            Role::Witness => "Witness: holds no data",
        },
        state,
        serving: member.serving,
        votes: member.votes,
        away: !member.online,
        leads: cluster.leader.as_deref() == Some(member.name.as_str()),
        here: status.is_some_and(|s| s.node == member.name),
        address: member.address.to_string(),
        space,
    }
}

fn connect(status: Option<&Status>) -> ConnectPanel {
    let portal = status.and_then(|s| s.cluster.as_ref()).and_then(|c| c.portal);
    let targets = status.map_or(&[][..], |s| &s.targets).iter().filter(|t| !t.luns.is_empty());
    ConnectPanel { portal: portal.map(|p| p.to_string()), targets: targets.map(|t| t.iqn.clone()).collect() }
}

fn service_row(service: &ServiceStatus) -> ServiceRow {
    ServiceRow {
        title: words::service_title(&service.name).to_owned(),
        name: service.name.clone(),
        state: words::service(service.state),
        restarts: service.restarts,
        since: text::stamp(service.since),
        since_iso: text::iso(service.since),
    }
}

fn tone(tone: &'static str, word: &'static str) -> State {
    State { word, tone, meaning: "" }
}

fn line(state: State, title: String, text: String) -> Headline {
    Headline { state, title, text }
}

/// One sentence on the whole: the worst thing first.
fn headline(seen: &Snapshot) -> Headline {
    if let Some(silence) = &seen.silent {
        let (since, what) = match seen.status {
            Some(_) => ("", "What stands below is what it said last; it may have changed."),
            None => ("since this console started, ", "Nothing is known of volumes and nodes."),
        };
        let text =
            format!("{} No answer {since}since {}. {what}", silence.reason, text::stamp(silence.since));
        return line(tone("bad", "Unknown"), "The present state is not known".to_owned(), text);
    }
    let Some(status) = &seen.status else {
        return line(
            tone("quiet", "Starting"),
            "Starting".to_owned(),
            "The first look is under way.".to_owned(),
        );
    };
    let Some(cluster) = &status.cluster else {
        let text = "Create a cluster on the Nodes page, or show a pairing code there to join one.".to_owned();
        return line(tone("quiet", "New"), format!("Node {} is in no cluster yet", status.node), text);
    };
    if !cluster.quorum {
        let text = "This node does not hear a majority of the cluster, so nothing can be decided here. Volumes without \
                    a majority are suspended: reads and writes wait, none fails."
            .to_owned();
        return line(tone("bad", "No majority"), "No majority".to_owned(), text);
    }
    if let Some((state, title)) = worst_volume(&status.volumes) {
        return line(state, title, state.meaning.to_owned());
    }
    protection(status, cluster)
}

/// Everything is served and in sync: what is it worth?
fn protection(status: &Status, cluster: &ClusterStatus) -> Headline {
    let away: Vec<&str> = cluster.members.iter().filter(|m| !m.online).map(|m| m.name.as_str()).collect();
    if !away.is_empty() {
        let what = if away.len() == 1 { "is" } else { "are" };
        let text = "Every volume is served and in sync, but another failure may stop it.".to_owned();
        return line(tone("warn", "Degraded"), format!("{} {what} offline", away.join(" and ")), text);
    }
    if !status.problems.is_empty() {
        let text = "Every volume is served and in sync.".to_owned();
        return line(tone("warn", "Attention"), "Something needs your attention".to_owned(), text);
    }
    if status.volumes.is_empty() {
        let text = "Create the first volume on the Volumes page.".to_owned();
        return line(tone("good", "Ready"), "Ready, and nothing to protect yet".to_owned(), text);
    }
    if let Some(alone) = status.volumes.iter().find(|v| v.replicas.len() < 2) {
        let text =
            "If its node fails, it is gone until that node is back. Pair a second data node.".to_owned();
        return line(tone("warn", "One copy"), format!("Volume {} has only one copy", alone.name), text);
    }
    if cluster.members.len() < 3 {
        let text =
            "Every copy is in sync, but when either node is lost there is no majority, and the volumes are \
                    suspended. Pair a witness."
                .to_owned();
        return line(tone("warn", "No witness"), "Mirrored, but without a witness".to_owned(), text);
    }
    let text = "Every copy holds every acknowledged write. Either node may fail.".to_owned();
    line(tone("good", "Healthy"), "Everything is mirrored".to_owned(), text)
}

/// The volumes in the worst state, if any is other than healthy.
fn worst_volume(volumes: &[VolumeStatus]) -> Option<(State, String)> {
    let order = [VolumeState::Suspended, VolumeState::Offline, VolumeState::Degraded, VolumeState::Resyncing];
    order.into_iter().find_map(|state| {
        let names: Vec<&str> = volumes.iter().filter(|v| v.state == state).map(|v| v.name.as_str()).collect();
        let said = match state {
            VolumeState::Suspended => "suspended",
            VolumeState::Offline => "offline",
            VolumeState::Degraded => "without full protection",
            VolumeState::Resyncing => "being resynced",
            VolumeState::Healthy => return None,
        };
        match names.as_slice() {
            [] => None,
            [name] => Some((words::volume(state), format!("Volume {name} is {said}"))),
            many => Some((words::volume(state), format!("{} volumes are {said}", many.len()))),
        }
    })
}

/// The headline, and resyncs in steps of ten percent: more often would not let a listener get a word in.
fn announcement(headline: &Headline, status: Option<&Status>) -> String {
    let mut said = vec![format!("{}.", headline.title)];
    for volume in status.map_or(&[][..], |s| &s.volumes) {
        if let Some(resync) = &volume.resync {
            let tens = resync.percent / 10 * 10;
            said.push(format!("Resync of {} to node {}: {tens} percent.", volume.name, resync.target));
        }
    }
    said.join(" ")
}

#[cfg(test)]
#[path = "panels_tests.rs"]
mod tests;
