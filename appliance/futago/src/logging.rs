//! Log lines go to stderr; the supervisor collects them per service. `FUTAGO_LOG` takes tracing's filter syntax.
//!
//! openraft says with every attempt that a peer does not answer, several times a heartbeat. Of its lines that differ in
//! numbers only one is written every five minutes, with the count of those that were not; what is new is written at once.

use base::{Monotonic, Repeats};
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What two lines are compared by, bytes.
const COMPARE_BYTES: usize = 512;
/// Longer numbers name nodes; shorter ones count.
const COUNTER_DIGITS: usize = 12;

/// Starts logging for this process; a second call changes nothing.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("FUTAGO_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=warn,hyper=warn,rustls=warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .event_format(Readable::default())
        .finish();
    // Fails only if a subscriber is set already, which is what is wanted.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The usual format, without openraft's repetition.
struct Readable {
    format: Format,
    since: Instant,
    openraft: Mutex<Repeats<String>>,
}

impl Default for Readable {
    fn default() -> Self {
        Self { format: Format::default(), since: Instant::now(), openraft: Mutex::new(Repeats::default()) }
    }
}

impl<S, N> FormatEvent<S, N> for Readable
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !event.metadata().target().starts_with("openraft") {
            return self.format.format_event(context, writer, event);
        }
        let mut likeness = Likeness(event.metadata().target().to_owned());
        event.record(&mut likeness);
        let unsaid = {
            let mut repeats = self.openraft.lock().unwrap_or_else(PoisonError::into_inner);
            repeats.ask(&likeness.0, "", Monotonic(0) + self.since.elapsed())
        };
        match unsaid {
            None => Ok(()),
            Some(0) => self.format.format_event(context, writer, event),
            Some(unsaid) => {
                let mut line = String::new();
                self.format.format_event(context, Writer::new(&mut line), event)?;
                writeln!(writer, "{} (said {unsaid} times more before)", line.trim_end())
            }
        }
    }
}

/// What an event says, its counters left out.
struct Likeness(String);

impl Visit for Likeness {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The end of what does not fit makes no other line.
        let _full = write!(self, " {}={value:?}", field.name());
    }
}

impl Write for Likeness {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while !rest.is_empty() {
            if self.0.len() > COMPARE_BYTES {
                return Err(fmt::Error);
            }
            let digits =
                rest.len().saturating_sub(rest.trim_start_matches(|c: char| c.is_ascii_digit()).len());
            let (piece, after) = match digits {
                0 => rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())),
                digits => rest.split_at(digits),
            };
            self.0.push_str(if (1..=COUNTER_DIGITS).contains(&digits) { "#" } else { piece });
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn openraft_repeats_itself_once() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(lines.clone())
            .event_format(Readable::default())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            for attempt in 0..100 {
                tracing::error!(target: "openraft::replication", err = %format_args!("{attempt}: refused"), "RPCError");
                tracing::warn!(target: "futago_manager", attempt, "ours");
            }
            tracing::error!(target: "openraft::replication", err = "the disk is full", "RPCError");
            for node in [11_223_344_556_677_889_900_u64, 11_223_344_556_677_889_901] {
                tracing::warn!(target: "openraft::replication", "to {node}");
            }
        });
        let text = lines.text();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(
            (count("refused"), count("ours"), count("the disk is full"), count("to 112")),
            (1, 100, 1, 2),
            "{text}"
        );
    }

    #[test]
    fn what_is_compared_is_bounded() {
        let mut likeness = Likeness(String::new());
        let _full = write!(likeness, "{}", "1 a ".repeat(10_000));
        assert!(likeness.0.len() < 2 * COMPARE_BYTES);
    }
}
