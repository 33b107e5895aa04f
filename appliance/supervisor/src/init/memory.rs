//! What the machine's memory is used for, for people who asked for service logs on the console.

use super::console::log;
use std::time::Duration;

/// Until the services have settled, and from then on.
const INTERVAL: Duration = Duration::from_secs(30);
/// The page cache that can be given up at any time, and memory that nobody has. The root file system is not in it: it can't be given up.
const NOT_IN_USE: &[&str] = &["MemFree", "Active(file)", "Inactive(file)", "SReclaimable"];

/// Tells it on the console, for ever.
pub(crate) fn report() -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("report-memory".into())
        .spawn(|| {
            loop {
                std::thread::sleep(INTERVAL);
                let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
                if let Some((used, total)) = usage(&text) {
                    log(&format!("futago: {used} of {total} KiB of memory in use, outside the page cache"));
                }
            }
        })
        .map(drop)
}

/// Used and total, in KiB.
fn usage(meminfo: &str) -> Option<(u64, u64)> {
    let value = |wanted: &str| {
        let (_, value) =
            meminfo.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| *name == wanted)?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let total = value("MemTotal")?;
    let not_in_use = NOT_IN_USE.iter().map(|name| value(name)).sum::<Option<u64>>()?;
    Some((total.checked_sub(not_in_use)?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_is_not_in_use() {
        let meminfo = "MemTotal:        1000 kB\nMemFree:          500 kB\nMemAvailable:     600 kB\nBuffers:           1 kB\n\
                       Active(file):     100 kB\nInactive(file):    40 kB\nUnevictable:     90 kB\nSReclaimable:      10 kB\n";
        assert_eq!(usage(meminfo), Some((350, 1000)));
        assert_eq!(usage("MemTotal: 1000 kB\n"), None);
        assert!(usage(&std::fs::read_to_string("/proc/meminfo").unwrap()).is_some());
    }
}
