//! The floating address: on the link of whoever serves.

use crate::arp::Announcer;
use crate::{NetError, Netlink};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Waits before the announcements of one acquisition. The first goes out at once; the others are for frames that were
/// lost and switches that were still learning.
const ANNOUNCEMENTS_MS: [u64; 5] = [0, 100, 400, 1000, 2500];

/// A floating address that this node holds.
///
/// Taken by [`FloatingAddress::acquire`], given back by [`FloatingAddress::release`]. Dropping it stops its
/// announcements only: a process that restarts while it serves keeps the address. One that starts without serving calls
/// [`FloatingAddress::remove`], as its former life may have left the address behind.
#[derive(Debug)]
pub struct FloatingAddress {
    interface: String,
    address: IpAddr,
    prefix_len: u8,
    held: Arc<AtomicBool>,
}

impl FloatingAddress {
    /// Adds `address` to the link `interface` (it may be there already) and announces it: a gratuitous ARP at once and
    /// four more within 4 s. IPv6 neighbours learn the new place by their own unreachability detection.
    ///
    /// # Errors
    ///
    /// No such link, or not permitted. A failed announcement is logged and no error: the address works, and neighbours
    /// find it when their entries expire.
    pub fn acquire(interface: &str, address: IpAddr, prefix_len: u8) -> Result<Self, NetError> {
        let mut netlink = Netlink::open()?;
        let link = netlink.interface(interface)?;
        netlink.add_address(interface, address, prefix_len)?;
        let held = Arc::new(AtomicBool::new(true));
        if let (IpAddr::V4(v4), Some(hardware_address)) = (address, link.hardware_address)
            && !link.loopback
        {
            match Announcer::open(link.index, hardware_address, v4) {
                Ok(announcer) => announce(announcer, address, Arc::clone(&held)),
                Err(error) => tracing::warn!("announce {address} on {interface}: {error}"),
            }
        }
        Ok(Self { interface: interface.into(), address, prefix_len, held })
    }

    /// Gives the address back. It is gone from the link when this returns.
    ///
    /// # Errors
    ///
    /// The link is gone (and the address with it), or not permitted.
    pub fn release(self) -> Result<(), NetError> {
        self.held.store(false, Ordering::Release);
        Self::remove(&self.interface, self.address, self.prefix_len)
    }

    /// Removes `address` from the link `interface`, whoever added it; fine if it is not there.
    ///
    /// # Errors
    ///
    /// No such link, or not permitted.
    pub fn remove(interface: &str, address: IpAddr, prefix_len: u8) -> Result<(), NetError> {
        Netlink::open()?.remove_address(interface, address, prefix_len)
    }
}

impl Drop for FloatingAddress {
    fn drop(&mut self) {
        self.held.store(false, Ordering::Release);
    }
}

/// Announces in the background until done or no longer held.
fn announce(announcer: Announcer, address: IpAddr, held: Arc<AtomicBool>) {
    let announcements = move || {
        for wait in ANNOUNCEMENTS_MS {
            std::thread::sleep(Duration::from_millis(wait));
            if !held.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = announcer.send() {
                tracing::warn!("announce {address}: {error}");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("announce".into()).spawn(announcements) {
        tracing::warn!("announce {address}: {error}");
    }
}
