//! Processor time by process, as the kernel accounts it (user and system, all threads, ended ones too).

use std::collections::BTreeMap;

/// Ticks of /proc/PID/stat per second: fixed in the kernel's interface on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process under a name; several processes may share one.
pub(crate) type Process = (String, u32);

/// Runs from its start.
pub(crate) struct Meter {
    before: Vec<(Process, f64)>,
    own: f64,
}

/// Seconds by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) servers: BTreeMap<String, f64>,
    pub(crate) client: f64,
}

impl Meter {
    pub(crate) fn start(processes: &[Process]) -> Self {
        let before = processes.iter().map(|process| (process.clone(), seconds(process.1))).collect();
        Self { before, own: own_seconds() }
    }

    pub(crate) fn stop(self) -> Cpu {
        let client = own_seconds() - self.own;
        let mut servers = BTreeMap::new();
        for ((name, pid), before) in self.before {
            *servers.entry(name).or_default() += seconds(pid) - before;
        }
        Cpu { servers, client }
    }
}

/// A process that has gone has used nothing.
fn seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which is the only field that may hold a space: state is the first, utime the 12th, stime the 13th.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return 0.0 };
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

fn own_seconds() -> f64 {
    seconds(std::process::id())
}
