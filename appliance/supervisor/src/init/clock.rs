//! The wall clock, by the NTP servers of the settings (SNTP, RFC 5905 §14).
//!
//! # Invariants
//!
//! - The clock is stepped before the services start, never while they run: leases are judged by it too (S5), and a step is
//!   what a pause of the machine looks like. Later it is slewed, at the kernel's 500 ppm, which leases allow for.
//! - Servers that do not answer hold the start up for [`PATIENCE`] and a
//!   second at most, and nothing else at all.

use super::{say, show};
use ::control::settings::Settings;
use anyhow::{Context, bail, ensure};
use netconf::dns::{self, DnsError, Question};
use rsntp::{Config, SntpClient};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const NTP_PORT: u16 = 123;
/// How long one server may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// How long the start waits for all of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries of the start.
const AGAIN: Duration = Duration::from_millis(300);
/// Servers that are asked; more do not make the clock better.
const MOST_SERVERS: usize = 4;
/// Between two looks while the services run (a usual poll interval, RFC 5905 §7.3).
const INTERVAL: Duration = Duration::from_secs(1024);
/// What one look slews at most: about what the kernel gets done until the next one.
const MOST_SLEW_NS: i64 = 500_000_000;
/// A clock that is further off is told: slewing takes hours.
const FAR_OFF_NS: u64 = 10_000_000_000;
const NANOSECONDS: i64 = 1_000_000_000;

/// Sets the clock, if there are servers. For before the services start.
pub(crate) fn set(settings: &Settings) -> anyhow::Result<()> {
    if settings.ntp.is_empty() {
        return Ok(());
    }
    // In a thread of its own: nothing in it can hold up or end PID 1.
    let (sender, answer) = std::sync::mpsc::channel();
    let settings = settings.clone();
    std::thread::Builder::new().name("set-clock".into()).spawn(move || {
        let deadline = Instant::now() + PATIENCE;
        // The link may have come up a moment ago.
        let mut found = offset(&settings);
        while found.is_err() && Instant::now() < deadline {
            std::thread::sleep(AGAIN);
            found = offset(&settings);
        }
        // Whoever has run out of patience hears no more.
        let _ = sender.send(found);
    })?;
    // One that has begun in time may end.
    let Ok(found) = answer.recv_timeout(PATIENCE + ANSWER_PATIENCE) else {
        bail!("no NTP server has answered in time; the clock stays as it is")
    };
    let offset_ns = found?;
    let now = clock_gettime(ClockId::Realtime);
    clock_settime(ClockId::Realtime, shifted(now, offset_ns)).context("the kernel refuses it")?;
    say(&format!("futago: the clock was {} by NTP", told(offset_ns)));
    Ok(())
}

/// Keeps the clock right from now on, in a thread, if there are servers. For when the services run.
pub(crate) fn keep(settings: Settings) -> io::Result<()> {
    if settings.ntp.is_empty() {
        return Ok(());
    }
    let watch = move || {
        let mut was_told = false;
        loop {
            std::thread::sleep(INTERVAL);
            let kept = offset(&settings).and_then(|offset_ns| {
                slew(offset_ns)?;
                Ok(offset_ns)
            });
            match kept {
                Ok(offset_ns) if offset_ns.unsigned_abs() < FAR_OFF_NS => was_told = false,
                Ok(offset_ns) if !was_told => {
                    was_told = true;
                    show(&format!(
                        "The clock is {} by NTP. Restart the node to set it: while it serves that is not safe.",
                        told(offset_ns)
                    ));
                }
                Ok(_) => {}
                Err(error) => tracing::info!("clock: {error:#}"),
            }
        }
    };
    std::thread::Builder::new().name("keep-clock".into()).spawn(watch).map(drop)
}

/// By how much the clock has to be changed, nanoseconds: the middle of what the servers say, so that of three one may
/// be wrong.
fn offset(settings: &Settings) -> anyhow::Result<i64> {
    let (mut offsets, mut last) = (Vec::new(), None);
    for server in settings.ntp.iter().take(MOST_SERVERS) {
        match resolve(server, settings).and_then(|address| ask(SocketAddr::new(address, NTP_PORT))) {
            Ok(offset_ns) => offsets.push(offset_ns),
            Err(error) => last = Some(error.context(server.clone())),
        }
    }
    match (middle(offsets), last) {
        (Some(offset_ns), _) => Ok(offset_ns),
        (None, Some(error)) => Err(error.context("no NTP server has answered")),
        (None, None) => bail!("there is no NTP server"),
    }
}

/// The address of a server that is known by it, or by a name: then of the kind of address that this node has.
fn resolve(server: &str, settings: &Settings) -> anyhow::Result<IpAddr> {
    if let Ok(address) = server.parse() {
        return Ok(address);
    }
    let mut last = anyhow::anyhow!("there is no DNS server");
    for dns in &settings.dns {
        match look_up(server, settings.address.is_ipv4(), SocketAddr::new(*dns, dns::SERVER_PORT)) {
            Ok(address) => return Ok(address),
            Err(error) => last = error.context(format!("DNS server {dns}")),
        }
    }
    Err(last)
}

/// Asks one DNS server.
fn look_up(name: &str, is_ipv4: bool, server: SocketAddr) -> anyhow::Result<IpAddr> {
    let [high, low, ..] = RandomState::new().hash_one(name).to_be_bytes();
    let question = Question::new(name, is_ipv4, u16::from_be_bytes([high, low])).context("no name")?;
    let socket = UdpSocket::bind(SocketAddr::new(any_like(server), 0))?;
    socket.connect(server)?;
    socket.send(&question.encode())?;
    let deadline = Instant::now() + ANSWER_PATIENCE;
    let mut bytes = [0; dns::ANSWER_BYTES];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer");
        socket.set_read_timeout(Some(left))?;
        let len = socket.recv(&mut bytes).context("no answer")?;
        match question.decode(bytes.get(..len).unwrap_or_default()) {
            Err(DnsError::Stray) => {}
            answered => return Ok(answered?),
        }
    }
}

/// Any local address, of the kind of `server`.
fn any_like(server: SocketAddr) -> IpAddr {
    if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// What one server says, nanoseconds.
fn ask(server: SocketAddr) -> anyhow::Result<i64> {
    let config = Config::default().bind_address((any_like(server), 0).into()).timeout(ANSWER_PATIENCE);
    let offset = SntpClient::with_config(config).synchronize(server)?.clock_offset();
    let amount = i64::try_from(offset.abs_as_std_duration()?.as_nanos()).context("an offset of centuries")?;
    Ok(if offset.signum() < 0 { -amount } else { amount })
}

fn middle(mut offsets: Vec<i64>) -> Option<i64> {
    offsets.sort_unstable();
    offsets.get(offsets.len().checked_sub(1)? / 2).copied()
}

/// `now`, changed by so many nanoseconds; not before 1970.
fn shifted(now: Timespec, offset_ns: i64) -> Timespec {
    let nanoseconds = now.tv_nsec.saturating_add(offset_ns % NANOSECONDS);
    let seconds = now.tv_sec.saturating_add(offset_ns / NANOSECONDS);
    let tv_sec = seconds.saturating_add(nanoseconds.div_euclid(NANOSECONDS)).max(0);
    Timespec { tv_sec, tv_nsec: nanoseconds.rem_euclid(NANOSECONDS) }
}

/// Lets the kernel change the clock bit by bit (adjtimex(2), ADJ_OFFSET_SINGLESHOT), in place of what is left of the
/// change before.
fn slew(offset_ns: i64) -> anyhow::Result<()> {
    // SAFETY: all fields of the structure are integers, for which zero is a value.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = libc::ADJ_OFFSET_SINGLESHOT;
    request.offset = offset_ns.clamp(-MOST_SLEW_NS, MOST_SLEW_NS) / 1000;
    // SAFETY: `request` is a whole structure that only this call uses.
    let state = unsafe { libc::adjtimex(&raw mut request) };
    ensure!(state >= 0, "slew the clock: {}", io::Error::last_os_error());
    Ok(())
}

/// `1.500 s behind`, `0.001 s ahead`.
fn told(offset_ns: i64) -> String {
    let amount = Duration::from_nanos(offset_ns.unsigned_abs());
    format!("{:.3} s {}", amount.as_secs_f64(), if offset_ns < 0 { "ahead" } else { "behind" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    /// Seconds from NTP's epoch, 1900, to Unix's.
    const NTP_EPOCH_S: u64 = 2_208_988_800;

    /// A server whose clock is so many seconds ahead; it answers one request, after a spoilt answer.
    fn server(ahead_s: i64, stratum: u8) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut request = [0; 48];
            let (_, from) = socket.recv_from(&mut request).unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let seconds = (now.as_secs() + NTP_EPOCH_S).checked_add_signed(ahead_s).unwrap();
            let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
            let time = ((seconds << 32) | fraction).to_be_bytes();
            let mut reply = [0; 48];
            reply[0] = 0x24; // version 4, server
            reply[1] = stratum;
            reply[24..32].copy_from_slice(&request[40..48]);
            reply[32..40].copy_from_slice(&time);
            reply[40..48].copy_from_slice(&time);
            socket.send_to(&reply, from).unwrap();
        });
        address
    }

    #[test]
    fn a_server_says_how_far_the_clock_is_off() {
        for ahead_s in [0, 3600, -86_400] {
            let offset_ns = ask(server(ahead_s, 2)).unwrap();
            assert!((offset_ns - ahead_s * NANOSECONDS).abs() < NANOSECONDS, "{ahead_s}: {offset_ns}");
        }
        assert!(ask(server(0, 0)).is_err(), "kiss of death");
        assert!(ask(server(0, 16)).is_err(), "it does not know the time itself");
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(ask(silent.local_addr().unwrap()).is_err());
    }

    #[test]
    fn a_name_is_looked_up_past_strangers_answers() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 512];
            let (len, from) = socket.recv_from(&mut bytes).unwrap();
            let mut answer = bytes[..len].to_vec();
            answer[2] = 0x81;
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 123]);
            let mut stray = answer.clone();
            stray[0] ^= 1;
            socket.send_to(&stray, from).unwrap();
            socket.send_to(&answer, from).unwrap();
        });
        assert_eq!(look_up("time.example.org", true, address).unwrap(), Ipv4Addr::new(192, 0, 2, 123));
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(look_up("time.example.org", true, silent.local_addr().unwrap()).is_err());
    }

    #[test]
    fn the_middle_one_counts() {
        assert_eq!(middle(vec![]), None);
        assert_eq!(middle(vec![7]), Some(7));
        assert_eq!(middle(vec![9_000, 1, 2]), Some(2));
        assert_eq!(middle(vec![5, -9_000]), Some(-9_000), "of two there is no telling");
    }

    #[test]
    fn a_time_is_shifted_with_its_fraction() {
        let now = Timespec { tv_sec: 1000, tv_nsec: 600_000_000 };
        for (offset_ns, expected) in [
            (0, (1000, 600_000_000)),
            (500_000_000, (1001, 100_000_000)),
            (-700_000_000, (999, 900_000_000)),
            (3_000_000_001, (1003, 600_000_001)),
            (-3_600_000_000, (997, 0)),
            (-5_000_000_000_000, (0, 600_000_000)),
        ] {
            let time = shifted(now, offset_ns);
            assert_eq!((time.tv_sec, time.tv_nsec), expected, "{offset_ns}");
        }
        assert_eq!(
            (told(1_500_000_000), told(-1_000_000)),
            ("1.500 s behind".into(), "0.001 s ahead".into())
        );
    }
}
