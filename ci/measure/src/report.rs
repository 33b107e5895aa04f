//! Medians, ratios, the table.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::WORKLOADS;
use crate::cpu::Cpu;
use crate::load::Outcome;

/// Systems that the others are compared with, and the column's title.
const AGAINST: [(&str, &str); 4] =
    [("tcp", ":tcp"), ("tgt", ":tgt"), ("tgt-direct", ":tgt-dir"), ("bare", ":bare")];

/// One measurement.
pub(crate) struct Sample {
    pub(crate) outcome: Outcome,
    pub(crate) cpu: Cpu,
}

/// What one measurement is reduced to.
#[derive(Clone, Debug)]
struct Figures {
    round: usize,
    rate: f64,
    operations: f64,
    p50_us: f64,
    p99_us: f64,
    cpu: Cpu,
}

/// Everything measured.
pub(crate) struct Report {
    systems: Vec<(&'static str, &'static str)>,
    figures: BTreeMap<(&'static str, usize), Vec<Figures>>,
}

/// The middle value; sorts.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

impl Report {
    pub(crate) fn new(systems: Vec<(&'static str, &'static str)>) -> Self {
        Self { systems, figures: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, system: usize, workload: &'static str, round: usize, sample: Sample) {
        let Sample { outcome, cpu } = sample;
        let [p50_us, p99_us] = outcome.quantiles([500, 990]);
        let operations = outcome.operations as f64;
        let rate = operations / outcome.elapsed.as_secs_f64();
        self.figures.entry((workload, system)).or_default().push(Figures {
            round,
            rate,
            operations,
            p50_us,
            p99_us,
            cpu,
        });
    }

    fn of(&self, workload: &'static str, system: usize) -> &[Figures] {
        self.figures.get(&(workload, system)).map_or(&[], Vec::as_slice)
    }

    fn measured(&self) -> impl Iterator<Item = &'static str> + '_ {
        let names = WORKLOADS.iter().map(|workload| workload.name);
        names.filter(|name| self.figures.keys().any(|(measured, _)| measured == name))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::from("\nsystems:\n");
        for (name, what) in &self.systems {
            let _ = writeln!(text, "  {name:<11} {what}");
        }
        text.push_str(
            "\nop/s, latency: median of the rounds; µs/op: processor time of all rounds by operations (server: all its \
             processes);\n:x = rate by the rate of x, median of the rounds' ratios\n\n",
        );
        let _ = write!(
            text,
            "{:<14} {:<11} {:>9} {:>8} {:>9} {:>9}",
            "", "", "op/s", "MiB/s", "server µs", "client µs"
        );
        let _ = write!(text, " {:>9} {:>9}", "p50 µs", "p99 µs");
        for (_, title) in AGAINST {
            let _ = write!(text, " {title:>8}");
        }
        text.push('\n');
        for workload in self.measured() {
            for (index, (name, _)) in self.systems.iter().enumerate() {
                self.row(&mut text, workload, index, name);
            }
            text.push('\n');
        }
        text
    }

    fn row(&self, text: &mut String, workload: &'static str, index: usize, name: &str) {
        let figures = self.of(workload, index);
        let of = |pick: fn(&Figures) -> f64| median(&mut figures.iter().map(pick).collect::<Vec<_>>());
        let rate = of(|figures| figures.rate);
        let bytes = WORKLOADS.iter().find(|known| known.name == workload).map_or(0, |known| known.bytes);
        let server: f64 = figures.iter().flat_map(|figures| figures.cpu.servers.values()).sum();
        let client: f64 = figures.iter().map(|figures| figures.cpu.client).sum();
        let operations: f64 = figures.iter().map(|figures| figures.operations).sum();
        let _ = write!(
            text,
            "{workload:<14} {name:<11} {rate:>9.0} {:>8.0} {:>9.1} {:>9.1} {:>9.0} {:>9.0}",
            rate * bytes as f64 / f64::from(1 << 20),
            server * 1e6 / operations,
            client * 1e6 / operations,
            of(|figures| figures.p50_us),
            of(|figures| figures.p99_us),
        );
        for (other, _) in AGAINST {
            let _ = match self.ratio(workload, index, other) {
                Some(ratio) => write!(text, " {ratio:>8.2}"),
                None => write!(text, " {:>8}", "-"),
            };
        }
        text.push('\n');
    }

    /// The rate on the bare file, op/s, the median of the rounds.
    pub(crate) fn bare_rate(&self, workload: &'static str) -> Option<f64> {
        let bare = self.systems.iter().position(|(name, _)| *name == "bare")?;
        let mut rates: Vec<f64> = self.of(workload, bare).iter().map(|figures| figures.rate).collect();
        (!rates.is_empty()).then(|| median(&mut rates))
    }

    /// Of the rounds' ratios the median.
    fn ratio(&self, workload: &'static str, index: usize, other: &str) -> Option<f64> {
        let other = self.systems.iter().position(|(name, _)| *name == other)?;
        let others = self.of(workload, other);
        let mut ratios: Vec<f64> = self
            .of(workload, index)
            .iter()
            .filter_map(|mine| {
                Some(mine.rate / others.iter().find(|theirs| theirs.round == mine.round)?.rate)
            })
            .collect();
        (!ratios.is_empty()).then(|| median(&mut ratios))
    }

    /// Processor time of systems that are more than one process.
    pub(crate) fn by_process(&self) -> String {
        let mut text = String::from("server µs/op by process:\n");
        for workload in self.measured() {
            for (index, (name, _)) in self.systems.iter().enumerate() {
                let figures = self.of(workload, index);
                let operations: f64 = figures.iter().map(|figures| figures.operations).sum();
                let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
                for (process, seconds) in figures.iter().flat_map(|figures| &figures.cpu.servers) {
                    *sums.entry(process).or_default() += seconds;
                }
                if sums.len() > 1 {
                    let parts: Vec<String> = sums
                        .iter()
                        .map(|(process, seconds)| format!("{process} {:.1}", seconds * 1e6 / operations))
                        .collect();
                    let _ = writeln!(text, "  {workload:<14} {name:<8} {}", parts.join(", "));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(operations: u64, elapsed_ms: u64, server: f64) -> Sample {
        let mut outcome = Outcome { elapsed: Duration::from_millis(elapsed_ms), ..Outcome::default() };
        (0..operations).for_each(|n| outcome.add(Duration::from_micros(10 + n)));
        Sample { outcome, cpu: Cpu { servers: BTreeMap::from([("target".into(), server)]), client: 0.0 } }
    }

    #[test]
    fn ratios_are_of_one_round() {
        let mut report = Report::new(vec![("file", ""), ("tgt", "")]);
        // The machine is four times as slow in the second round: the ratio does not see it.
        for (round, ms) in [(0, 100), (1, 400)] {
            report.add(0, "4k-read-d1", round, sample(300, ms, 0.003));
            report.add(1, "4k-read-d1", round, sample(100, ms, 0.002));
        }
        assert_eq!(report.ratio("4k-read-d1", 0, "tgt"), Some(3.0));
        assert_eq!(report.ratio("4k-read-d1", 0, "bare"), None);
        let text = report.text();
        let row: Vec<&str> = text
            .lines()
            .find(|l| l.contains(" file ") && l.contains("4k-read-d1"))
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(row[4], "10.0", "server µs per operation: {row:?}");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }
}
