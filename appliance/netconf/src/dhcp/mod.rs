//! An IPv4 address by DHCP (RFC 2131), as long as somebody wants it. Pure: datagrams and the time in, datagrams and the
//! lease out; the times are since any moment, the same one for every call.
//!
//! # Invariants
//!
//! - An address is used only while its lease lasts: [`Client::lease`] answers none from the moment of its end.
//! - An answer counts only if it is for this hardware address, this exchange, and the state that the client is in; all
//!   else changes nothing.
//! - Whoever does not answer is asked more and more seldom, at least every 64 s, for ever.

mod message;

use message::{Answer, Kind, Request};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Where servers listen.
pub const SERVER_PORT: u16 = message::SERVER_PORT;
/// Where clients listen.
pub const CLIENT_PORT: u16 = message::CLIENT_PORT;

/// Wait after the first request; each next one is twice as long, up to [`LONGEST_WAIT`] (RFC 2131 §4.1).
const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// How much each wait is longer or shorter by chance, so that machines that start together do not ask together.
const SPREAD_MS: u64 = 1000;
/// Requests for an offered address, before another one is looked for.
const REQUESTS: u32 = 4;
/// Least wait between two requests to prolong a lease (RFC 2131 §4.4.5).
const LEAST_RENEWAL_WAIT: Duration = Duration::from_secs(60);
/// Wait after a server has taken an address back: one that does so always must not be flooded.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// An address that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Where packets for other networks go.
    pub gateway: Option<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
}

/// A datagram from [`CLIENT_PORT`] to [`SERVER_PORT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The server, or the broadcast address.
    pub to: Ipv4Addr,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The client of one link.
pub struct Client {
    hardware_address: [u8; 6],
    random: u64,
    state: State,
    /// Of the exchange under way.
    transaction: u32,
    /// Its start.
    since: Duration,
    /// Requests of it without a usable answer.
    asked: u32,
    /// The last request.
    sent: Duration,
    /// The next one.
    next: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing is offered yet.
    Looking,
    /// Asks for what was offered.
    Requesting { offered: Ipv4Addr, server: Ipv4Addr },
    /// Has an address: prolongs it from its server, later from any.
    Bound { lease: Lease, rebind_at: Duration, ends_at: Duration },
}

impl Client {
    /// A client for the link with this Ethernet address; `seed` makes its exchanges and waits differ from others'.
    #[must_use]
    pub fn new(hardware_address: [u8; 6], seed: u64, now: Duration) -> Self {
        let mut client = Self {
            hardware_address,
            random: seed,
            state: State::Looking,
            transaction: 0,
            since: now,
            asked: 0,
            sent: now,
            next: now,
        };
        client.look(now);
        client
    }

    /// The address, while it may be used.
    #[must_use]
    pub fn lease(&self, now: Duration) -> Option<Lease> {
        match self.state {
            State::Bound { lease, ends_at, .. } if now < ends_at => Some(lease),
            State::Looking | State::Requesting { .. } | State::Bound { .. } => None,
        }
    }

    /// How many requests of the exchange under way nobody has answered.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.asked
    }

    /// When [`Client::poll`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        match self.state {
            State::Bound { ends_at, .. } => self.next.min(ends_at),
            State::Looking | State::Requesting { .. } => self.next,
        }
    }

    /// The datagram that is due, if one is.
    pub fn poll(&mut self, now: Duration) -> Option<Datagram> {
        match self.state {
            State::Bound { ends_at, .. } if now >= ends_at => self.look(now),
            State::Requesting { .. } if now >= self.next && self.asked >= REQUESTS => self.look(now),
            State::Looking | State::Requesting { .. } | State::Bound { .. } => {}
        }
        if now < self.next {
            return None;
        }
        let first_renewal = matches!(self.state, State::Bound { .. }) && self.asked == 0;
        if first_renewal {
            self.begin(now);
        }
        self.asked = self.asked.saturating_add(1);
        let (wait, request, to) = match self.state {
            State::Looking => (self.back_off(), Request::discover(), Ipv4Addr::BROADCAST),
            State::Requesting { offered, server } => {
                (self.back_off(), Request::select(offered, server), Ipv4Addr::BROADCAST)
            }
            State::Bound { lease, rebind_at, ends_at } => {
                let (until, to) =
                    if now < rebind_at { (rebind_at, lease.server) } else { (ends_at, Ipv4Addr::BROADCAST) };
                let wait = (until.saturating_sub(now) / 2).max(LEAST_RENEWAL_WAIT);
                // The moment from which any server may answer is not slept through.
                let wait = if now < rebind_at { wait.min(rebind_at.saturating_sub(now)) } else { wait };
                (wait, Request::prolong(lease.address), to)
            }
        };
        self.sent = now;
        self.next = now.saturating_add(wait);
        let secs = u16::try_from(now.saturating_sub(self.since).as_secs()).unwrap_or(u16::MAX);
        let bytes = request.encode(self.hardware_address, self.transaction, secs);
        Some(Datagram { to, bytes })
    }

    /// What a server has sent.
    pub fn handle(&mut self, now: Duration, datagram: &[u8]) {
        let Some(answer) = Answer::decode(datagram, self.hardware_address, self.transaction) else { return };
        match (self.state, answer.kind) {
            (State::Looking, Kind::Offer) => self.take_offer(now, &answer),
            (State::Requesting { offered, server }, Kind::Ack) => {
                if answer.server == server && answer.terms.is_some_and(|terms| terms.address == offered) {
                    self.bind(&answer);
                }
            }
            (State::Bound { lease, .. }, Kind::Ack) if self.asked > 0 => {
                if answer.terms.is_some_and(|terms| terms.address == lease.address) {
                    self.bind(&answer);
                }
            }
            (State::Requesting { server, .. }, Kind::Nak) if answer.server == server => self.refused(now),
            (State::Bound { .. }, Kind::Nak) if self.asked > 0 => self.refused(now),
            (
                State::Looking | State::Requesting { .. } | State::Bound { .. },
                Kind::Offer | Kind::Ack | Kind::Nak,
            ) => {}
        }
    }

    fn take_offer(&mut self, now: Duration, answer: &Answer) {
        // Before the first request nothing was asked; an offer without terms can't be used.
        let (Some(terms), true) = (answer.terms, self.asked > 0) else { return };
        self.state = State::Requesting { offered: terms.address, server: answer.server };
        self.asked = 0;
        self.next = now;
    }

    fn bind(&mut self, answer: &Answer) {
        let Some(terms) = answer.terms else { return };
        let lease = Lease {
            address: terms.address,
            prefix_len: terms.prefix_len,
            gateway: terms.gateway,
            server: answer.server,
        };
        // All from the sending of the request (RFC 2131 §4.4.1): the server's clock runs since then at the earliest.
        self.state = State::Bound {
            lease,
            rebind_at: self.sent.saturating_add(terms.rebind_after),
            ends_at: self.sent.saturating_add(terms.lasts),
        };
        self.asked = 0;
        self.next = self.sent.saturating_add(terms.renew_after);
    }

    fn refused(&mut self, now: Duration) {
        self.look(now);
        self.next = now.saturating_add(AFTER_REFUSAL);
    }

    /// Begins to look for an address.
    fn look(&mut self, now: Duration) {
        self.state = State::Looking;
        self.begin(now);
        self.asked = 0;
        self.next = now;
    }

    /// Begins an exchange.
    fn begin(&mut self, now: Duration) {
        self.since = now;
        let [a, b, c, d, ..] = self.draw().to_be_bytes();
        self.transaction = u32::from_be_bytes([a, b, c, d]);
    }

    fn back_off(&mut self) -> Duration {
        let doublings = self.asked.saturating_sub(1).min(8);
        let wait = (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
        wait + Duration::from_millis(self.draw() % (2 * SPREAD_MS)) - Duration::from_millis(SPREAD_MS)
    }

    /// splitmix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
