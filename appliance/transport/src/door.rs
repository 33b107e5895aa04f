//! The door of a port: how many connections there may be that have not proven yet who they are, and which gives way.
//!
//! Invariants
//! - A newcomer is always let in; when there are too many, the oldest connection of the party that has the most gives
//!   way. A flood from one address thus ends its own connections and nobody else's; one from many addresses leaves a
//!   newcomer the time that it takes to fill every place anew.
//! - A party is an IPv4 address or an IPv6 /64: whoever has one address of such a network has them all.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Who an address belongs to.
#[must_use]
pub fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// Which of `waiting`, in the order in which they came, gives way to the last one.
pub fn gives_way<K: Copy>(waiting: impl Iterator<Item = (K, IpAddr)>) -> Option<K> {
    // Party → its connections, the place of its oldest in the order, and that one.
    let mut parties: BTreeMap<IpAddr, (usize, usize, K)> = BTreeMap::new();
    for (place, (connection, address)) in waiting.enumerate() {
        parties.entry(party(address)).or_insert((0, place, connection)).0 += 1;
    }
    let most = parties.values().max_by_key(|(count, place, _)| (*count, std::cmp::Reverse(*place)));
    most.map(|(_, _, oldest)| *oldest)
}

#[derive(Default)]
struct Waiting {
    arrivals: u64,
    /// Dropping the sender tells a connection to go.
    connections: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
}

/// A door. Clones are the same door.
#[derive(Clone)]
pub struct Door {
    places: usize,
    waiting: Arc<Mutex<Waiting>>,
}

impl Door {
    /// A door with so many places, at least one.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { places: places.max(1), waiting: Arc::default() }
    }

    /// A connection from `address` came.
    #[must_use]
    pub fn enter(&self, address: IpAddr) -> Place {
        let (stay, told) = oneshot::channel();
        let mut waiting = self.lock();
        let number = waiting.arrivals;
        waiting.arrivals = number.wrapping_add(1);
        waiting.connections.insert(number, (address, stay));
        if waiting.connections.len() > self.places {
            let all = waiting.connections.iter().map(|(number, (address, _))| (*number, *address));
            if let Some(gone) = gives_way(all) {
                waiting.connections.remove(&gone);
            }
        }
        drop(waiting);
        Place { door: self.clone(), number, told }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place at a door; free again when this is dropped.
pub struct Place {
    door: Door,
    number: u64,
    told: oneshot::Receiver<()>,
}

impl Place {
    /// Does `work`, which ends in a connection that is known, or in none. `None`: it had to give way.
    pub async fn hold<T>(mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = &mut self.told => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_party_with_the_most_gives_way_by_its_oldest() {
        let waiting = |addresses: &[&str]| {
            gives_way(addresses.iter().enumerate().map(|(number, text)| (number, address(text))))
        };
        assert_eq!(waiting(&["10.0.0.1", "10.0.0.2", "10.0.0.2"]), Some(1));
        assert_eq!(waiting(&["10.0.0.2", "10.0.0.1", "10.0.0.2", "10.0.0.3"]), Some(0));
        // As many each: the oldest of all.
        assert_eq!(waiting(&["10.0.0.3", "10.0.0.1", "10.0.0.2"]), Some(0));
        // One network, one mapped address.
        assert_eq!(waiting(&["10.0.0.1", "fd00::1", "fd00::2"]), Some(1));
        assert_eq!(waiting(&["fd00::1", "::ffff:10.0.0.1", "10.0.0.1"]), Some(1));
        assert_eq!(waiting(&[]), None);
    }

    #[tokio::test]
    async fn a_flood_ends_its_own_connections() {
        let door = Door::new(8);
        let genuine = tokio::spawn(door.enter(address("10.0.0.1")).hold(async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            "in"
        }));
        let flood: Vec<Place> = (0..1000).map(|_| door.enter(address("10.0.0.2"))).collect();
        assert_eq!(door.lock().connections.len(), 8);
        let mut stayed = 0;
        for place in flood {
            stayed += usize::from(place.hold(std::future::ready(())).await.is_some());
        }
        assert_eq!(stayed, 7);
        assert_eq!(genuine.await.unwrap(), Some("in"));
        assert!(door.lock().connections.is_empty());
    }
}
