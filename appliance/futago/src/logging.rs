//! Log lines go to stderr; the supervisor collects them per service. `FUTAGO_LOG` takes tracing's filter syntax.

use tracing_subscriber::EnvFilter;

/// Starts logging for this process; a second call changes nothing.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("FUTAGO_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=warn,hyper=warn,rustls=warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .finish();
    // Fails only if a subscriber is set already, which is what is wanted.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
