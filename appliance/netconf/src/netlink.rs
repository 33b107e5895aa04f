//! The socket to the kernel's rtnetlink(7).

use crate::NetError;
use crate::message::{AddressMessage, Answer, LINK_LOOPBACK, LINK_UP, Request, decode};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use std::net::IpAddr;

/// The kernel's datagrams are at most 32 KiB.
const DATAGRAM_BYTES: usize = 32 << 10;

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name, e.g. `eth0`.
    pub name: String,
    /// Set up by us or someone.
    pub up: bool,
    /// The loopback.
    pub loopback: bool,
    /// Its Ethernet address, if it has one.
    pub hardware_address: Option<[u8; 6]>,
}

/// A connection to the kernel's network configuration, in the network namespace of the thread that opened it.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Connects.
    ///
    /// # Errors
    ///
    /// The system has no netlink, or no file descriptor is left.
    pub fn open() -> Result<Self, NetError> {
        let open = || {
            let flags = SocketFlags::CLOEXEC;
            // Protocol 0 is NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            Ok(Self { socket, sequence: 0 })
        };
        open().map_err(|error| NetError::new("open a netlink socket", error))
    }

    /// All links.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn interfaces(&mut self) -> Result<Vec<Interface>, NetError> {
        let answers = self.ask(Request::Links).map_err(|error| NetError::new("list links", error))?;
        let interfaces = answers.into_iter().filter_map(|answer| match answer {
            Answer::Link(link) => Some(Interface {
                index: link.index,
                name: link.name,
                up: link.flags & LINK_UP != 0,
                loopback: link.flags & LINK_LOOPBACK != 0,
                hardware_address: link.hardware_address,
            }),
            Answer::Ack { .. } | Answer::End | Answer::Address(_) | Answer::Other => None,
        });
        Ok(interfaces.collect())
    }

    /// The link called `name`.
    ///
    /// # Errors
    ///
    /// ENODEV: there is none.
    pub fn interface(&mut self, name: &str) -> Result<Interface, NetError> {
        let found = self.interfaces()?.into_iter().find(|interface| interface.name == name);
        found.ok_or_else(|| NetError::new(format!("find interface {name}"), Errno::NODEV))
    }

    /// Sets the link `name` up.
    ///
    /// # Errors
    ///
    /// No such link, or not permitted.
    pub fn link_up(&mut self, name: &str) -> Result<(), NetError> {
        let index = self.interface(name)?.index;
        self.change(Request::LinkUp { index }, None, || format!("set {name} up"))
    }

    /// Addresses of the link `name` with their prefix lengths.
    ///
    /// # Errors
    ///
    /// No such link.
    pub fn addresses(&mut self, name: &str) -> Result<Vec<(IpAddr, u8)>, NetError> {
        let index = self.interface(name)?.index;
        let answers = self.ask(Request::Addresses).map_err(|error| NetError::new("list addresses", error))?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            Answer::Address(AddressMessage { index: of, address, prefix_len }) if of == index => {
                Some((address, prefix_len))
            }
            Answer::Address(_) | Answer::Link(_) | Answer::Ack { .. } | Answer::End | Answer::Other => None,
        });
        Ok(addresses.collect())
    }

    /// Adds an address to the link `name`; one that is there already is fine.
    ///
    /// # Errors
    ///
    /// No such link, not permitted, or a prefix longer than the address.
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix_len: u8) -> Result<(), NetError> {
        let index = self.interface(name)?.index;
        let request = Request::AddAddress { index, address, prefix_len };
        self.change(request, Some(Errno::EXIST), || format!("add {address}/{prefix_len} to {name}"))
    }

    /// Removes an address from the link `name`; one that is not there is fine.
    ///
    /// # Errors
    ///
    /// No such link, or not permitted.
    pub fn remove_address(&mut self, name: &str, address: IpAddr, prefix_len: u8) -> Result<(), NetError> {
        let index = self.interface(name)?.index;
        let request = Request::RemoveAddress { index, address, prefix_len };
        self.change(request, Some(Errno::ADDRNOTAVAIL), || {
            format!("remove {address}/{prefix_len} from {name}")
        })
    }

    /// Sets the default route, replacing an earlier one.
    ///
    /// # Errors
    ///
    /// The gateway is on no link, or not permitted.
    pub fn set_default_route(&mut self, gateway: IpAddr) -> Result<(), NetError> {
        self.change(Request::DefaultRoute { gateway }, None, || format!("set the default route to {gateway}"))
    }

    /// A request that changes something; the answer `fine` means that it is so already.
    fn change(
        &mut self,
        request: Request,
        fine: Option<Errno>,
        action: impl Fn() -> String,
    ) -> Result<(), NetError> {
        match self.ask(request) {
            Ok(_) => Ok(()),
            Err(error) if Some(error) == fine => Ok(()),
            Err(error) => Err(NetError::new(action(), error)),
        }
    }

    /// Sends a request and takes its whole answer.
    fn ask(&mut self, request: Request) -> Result<Vec<Answer>, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request.encode(self.sequence);
        sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut datagram = vec![0; DATAGRAM_BYTES];
        let mut list = Vec::new();
        loop {
            let (count, _) = match recv(&self.socket, datagram.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            for answer in decode(datagram.get(..count).unwrap_or_default(), self.sequence) {
                match answer {
                    Answer::Ack { errno: 0 } | Answer::End => return Ok(list),
                    Answer::Ack { errno } => return Err(Errno::from_raw_os_error(errno)),
                    Answer::Link(_) | Answer::Address(_) | Answer::Other => list.push(answer),
                }
            }
        }
    }
}
