//! `/metrics` in the Prometheus text format, version 0.0.4. Bytes and seconds, as its conventions ask.

use crate::app::Shared;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use control::api::{Status, VolumeState};
use control::service::ServiceState;
use std::fmt::{Display, Write};
use std::time::{Duration, Instant};
use sysinfo::System;

/// Answers what is known now. Without the cluster manager: `futago_cluster_manager_up 0` and no stale numbers.
pub(crate) async fn metrics(State(app): State<Shared>) -> Response {
    let (status, services) = tokio::join!(app.upstream.status(), app.upstream.services());
    let mut page = Page::default();
    page.family("futago_cluster_manager_up", "gauge", "The cluster manager of this node answers.");
    page.sample("futago_cluster_manager_up", &[], u8::from(status.is_ok()));
    if let Ok(status) = &status {
        cluster(&mut page, status);
        volumes(&mut page, status);
    }
    if let Ok(services) = services {
        page.family("futago_service_up", "gauge", "The service runs.");
        for s in &services {
            let up = u8::from(s.state == ServiceState::Running);
            page.sample("futago_service_up", &[("service", &s.name)], up);
        }
        page.family("futago_service_restarts_total", "counter", "Restarts since the supervisor started.");
        for s in &services {
            page.sample("futago_service_restarts_total", &[("service", &s.name)], s.restarts);
        }
    }
    page.family("futago_console_sessions", "gauge", "Signed-in browsers.");
    page.sample("futago_console_sessions", &[], app.sessions.count(Instant::now()));
    match tokio::task::spawn_blocking(Host::measure).await {
        Ok(Ok(host)) => host.write(&mut page),
        Ok(Err(error)) => tracing::warn!(%error, "this machine's figures"),
        Err(error) => tracing::warn!(%error, "this machine's figures"),
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.text).into_response()
}

fn cluster(page: &mut Page, status: &Status) {
    let Some(cluster) = &status.cluster else { return };
    page.family("futago_cluster_quorum", "gauge", "A majority of the voters hears this node.");
    page.sample("futago_cluster_quorum", &[], u8::from(cluster.quorum));
    page.family("futago_cluster_generation", "gauge", "Generation of the cluster.");
    page.sample("futago_cluster_generation", &[], cluster.generation);
    page.family("futago_node_online", "gauge", "The node was heard from within the dead time.");
    for m in &cluster.members {
        page.sample("futago_node_online", &[("node", &m.name)], u8::from(m.online));
    }
    page.family("futago_node_votes", "gauge", "The node has a vote.");
    for m in &cluster.members {
        page.sample("futago_node_votes", &[("node", &m.name)], u8::from(m.votes));
    }
    page.family("futago_node_serving", "gauge", "The node serves at least one volume.");
    for m in &cluster.members {
        page.sample("futago_node_serving", &[("node", &m.name)], u8::from(m.serving));
    }
    page.family("futago_node_free_bytes", "gauge", "Space for new volumes.");
    for m in &cluster.members {
        page.sample("futago_node_free_bytes", &[("node", &m.name)], m.free.0);
    }
    page.family("futago_node_capacity_bytes", "gauge", "All space for volumes.");
    for m in &cluster.members {
        page.sample("futago_node_capacity_bytes", &[("node", &m.name)], m.capacity.0);
    }
}

/// The words of [`VolumeState`], as its JSON form has them.
const STATES: [(VolumeState, &str); 5] = [
    (VolumeState::Healthy, "healthy"),
    (VolumeState::Degraded, "degraded"),
    (VolumeState::Resyncing, "resyncing"),
    (VolumeState::Suspended, "suspended"),
    (VolumeState::Offline, "offline"),
];

fn volumes(page: &mut Page, status: &Status) {
    let volumes = &status.volumes;
    page.family("futago_volume_state", "gauge", "1 for the state that the volume is in.");
    for v in volumes {
        for (state, word) in STATES {
            let labels = [("volume", v.name.as_str()), ("state", word)];
            page.sample("futago_volume_state", &labels, u8::from(v.state == state));
        }
    }
    page.family("futago_volume_size_bytes", "gauge", "Size as initiators see it.");
    for v in volumes {
        page.sample("futago_volume_size_bytes", &[("volume", &v.name)], v.size.0);
    }
    page.family("futago_volume_epoch", "gauge", "Counts changes of primary, in-sync set and size.");
    for v in volumes {
        page.sample("futago_volume_epoch", &[("volume", &v.name)], v.epoch.0);
    }
    page.family("futago_volume_in_sync_replicas", "gauge", "Copies that hold every acknowledged write.");
    for v in volumes {
        page.sample("futago_volume_in_sync_replicas", &[("volume", &v.name)], v.in_sync.len());
    }
    page.family("futago_volume_replicas", "gauge", "Copies, in sync or not.");
    for v in volumes {
        page.sample("futago_volume_replicas", &[("volume", &v.name)], v.replicas.len());
    }
    page.family("futago_volume_dirty_bytes", "gauge", "Bytes that a peer may lack.");
    for v in volumes {
        page.sample("futago_volume_dirty_bytes", &[("volume", &v.name)], v.dirty.0);
    }
    page.family("futago_volume_resynced_bytes_total", "counter", "Bytes moved by resyncs.");
    for v in volumes {
        page.sample("futago_volume_resynced_bytes_total", &[("volume", &v.name)], v.resynced_total.0);
    }
    page.family("futago_volume_resync_left_bytes", "gauge", "Bytes that the resync under way still moves.");
    for v in volumes {
        let left = v.resync.as_ref().map_or(0, |r| r.bytes_left.0);
        page.sample("futago_volume_resync_left_bytes", &[("volume", &v.name)], left);
    }
}

/// This machine.
struct Host {
    memory_total: u64,
    memory_available: u64,
    cpu_ratio: f32,
    load: f64,
}

impl Host {
    fn measure() -> Result<Self, sysinfo::Error> {
        let mut system = System::new()?;
        system.refresh_memory();
        // A share of time needs two looks at the counters.
        system.refresh_cpu_usage();
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL.max(Duration::from_millis(200)));
        system.refresh_cpu_usage();
        Ok(Self {
            memory_total: system.total_memory(),
            memory_available: system.available_memory(),
            cpu_ratio: system.global_cpu_usage() / 100.0,
            load: System::load_average()?.one,
        })
    }

    fn write(&self, page: &mut Page) {
        page.family("futago_host_memory_bytes", "gauge", "Memory of this machine.");
        page.sample("futago_host_memory_bytes", &[], self.memory_total);
        page.family("futago_host_memory_available_bytes", "gauge", "Memory that can still be used.");
        page.sample("futago_host_memory_available_bytes", &[], self.memory_available);
        page.family("futago_host_cpu_ratio", "gauge", "Share of processor time in use, 0 to 1, all cores.");
        page.sample("futago_host_cpu_ratio", &[], self.cpu_ratio);
        page.family("futago_host_load1", "gauge", "Load average over one minute.");
        page.sample("futago_host_load1", &[], self.load);
    }
}

/// The text so far. Writing to a string cannot fail.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.family("x", "gauge", "Help.");
        page.sample("x", &[], 1);
        page.sample("x", &[("a", "q\"b\\"), ("c", "d")], 2.5);
        assert_eq!(page.text, "# HELP x Help.\n# TYPE x gauge\nx 1\nx{a=\"q\\\"b\\\\\",c=\"d\"} 2.5\n");
    }
}
