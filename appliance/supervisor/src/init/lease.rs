//! The address that a machine without settings is lent: netconf's DHCP client on a socket, and its lease on the link.
//!
//! Invariant: the link has the address exactly while the lease lasts, and no longer than the [`Borrower`] lives.

use anyhow::Context;
use netconf::dhcp::{CLIENT_PORT, Client, Lease, SERVER_PORT};
use netconf::{Interface, NetError, Netlink};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// Larger answers are cut off, and then are none.
const DATAGRAM_BYTES: usize = 1500;
/// A lease for good is no reason to sleep for ever: timers have an end.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// After an error of the socket: the link may be away for a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// The client of one link. Takes the address off the link when it is dropped.
pub(crate) struct Borrower {
    link: String,
    socket: UdpSocket,
    client: Client,
    start: Instant,
    /// What the link has.
    held: Option<Lease>,
}

impl Borrower {
    /// Sets the link up and begins to ask. Needs a tokio runtime.
    pub(crate) fn open(link: &Interface) -> anyhow::Result<Self> {
        let hardware_address = link.hardware_address.context("it has no Ethernet address")?;
        Netlink::open()?.link_up(&link.name)?;
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).context("DHCP")?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.set_broadcast(true)?;
        // A machine without an address sends where it is told to.
        socket.bind_device(Some(link.name.as_bytes())).context("DHCP")?;
        let seed = RandomState::new().hash_one(hardware_address);
        let client = Client::new(hardware_address, seed, Duration::ZERO);
        Ok(Self { link: link.name.clone(), socket, client, start: Instant::now(), held: None })
    }

    /// What the link has.
    pub(crate) fn lease(&self) -> Option<Lease> {
        self.held
    }

    /// How many requests nobody has answered.
    pub(crate) fn unanswered(&self) -> u32 {
        self.client.unanswered()
    }

    /// Goes on until something has happened. May be dropped at any point and called again.
    pub(crate) async fn step(&mut self) -> anyhow::Result<()> {
        while let Some(datagram) = self.client.poll(self.start.elapsed()) {
            if let Err(error) = self.socket.send_to(&datagram.bytes, (datagram.to, SERVER_PORT)).await {
                // As if it were lost on the way: it is sent again.
                tracing::debug!("DHCP on {}: {error}", self.link);
            }
        }
        self.settle()?;
        let mut bytes = [0; DATAGRAM_BYTES];
        let wait = self.client.deadline().saturating_sub(self.start.elapsed()).min(LONGEST_SLEEP);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            received = self.socket.recv_from(&mut bytes) => match received {
                Ok((len, from)) => self.take(bytes.get(..len).unwrap_or_default(), from),
                Err(error) => {
                    tracing::debug!("DHCP on {}: {error}", self.link);
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
        self.settle()
    }

    fn take(&mut self, datagram: &[u8], from: SocketAddr) {
        if from.port() == SERVER_PORT {
            self.client.handle(self.start.elapsed(), datagram);
        }
    }

    /// Makes the link what the lease is.
    fn settle(&mut self) -> anyhow::Result<()> {
        let lease = self.client.lease(self.start.elapsed());
        Ok(self.change(lease)?)
    }

    fn change(&mut self, lease: Option<Lease>) -> Result<(), NetError> {
        if lease == self.held {
            return Ok(());
        }
        let mut netlink = Netlink::open()?;
        if let Some(old) = self.held.take() {
            // With the link's last address its routes go too.
            netlink.remove_address(&self.link, old.address.into(), old.prefix_len)?;
        }
        if let Some(new) = lease {
            netlink.add_address(&self.link, new.address.into(), new.prefix_len)?;
            self.held = Some(new);
            if let Some(gateway) = new.gateway
                && let Err(error) = netlink.set_default_route(gateway.into())
            {
                // Some servers name one that is elsewhere: whoever is on this network gets in all the same.
                tracing::warn!("{error}: {}", error.errno());
            }
        }
        Ok(())
    }
}

impl Drop for Borrower {
    fn drop(&mut self) {
        // A link that is gone has no address.
        if let Err(error) = self.change(None) {
            tracing::warn!("the address that was lent: {error}");
        }
    }
}
