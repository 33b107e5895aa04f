//! Messages to and from the host, a register full at a time (open-vm-tools' `lib/message`, low bandwidth).
//!
//! | kind of call | in | out |
//! |---|---|---|
//! | open | protocol | channel, two words of its cookie |
//! | send: size, then four bytes at a time | those | – |
//! | receive: size, then four bytes at a time, then done | – | those |
//! | close | – | – |
//!
//! Invariant: a call that a checkpoint of the machine has cut through (suspend, snapshot, migration) starts the message anew, a few times.

use anyhow::{bail, ensure};

/// What the processor's registers hold before and after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) ebx: u32,
    /// Command below, kind of call above; after it the status above.
    pub(super) ecx: u32,
    /// Port below, channel above; after it the kind of message above.
    pub(super) edx: u32,
    pub(super) esi: u32,
    pub(super) edi: u32,
}

/// The way to the host.
pub(super) trait Door {
    fn call(&mut self, registers: Registers) -> Registers;
}

/// `TCLO`: what the host asks of the guest.
pub(super) const ORDERS: u32 = 0x4f4c_4354;
/// `RPCI`: what the guest asks of the host.
pub(super) const REQUESTS: u32 = 0x4943_5052;

pub(super) const PORT: u32 = 0x5658;
const COMMAND: u32 = 0x1e;
/// The channel is known by a cookie too.
const WITH_COOKIE: u32 = 0x8000_0000;
/// More is no message of this conversation.
const MAX_BYTES: u32 = 64 << 10;
const MOST_TRIES: usize = 5;

/// Kinds of calls.
mod kind {
    pub(super) const OPEN: u32 = 0;
    pub(super) const SEND_SIZE: u32 = 1;
    pub(super) const SEND_PAYLOAD: u32 = 2;
    pub(super) const RECEIVE_SIZE: u32 = 3;
    pub(super) const RECEIVE_PAYLOAD: u32 = 4;
    pub(super) const RECEIVE_STATUS: u32 = 5;
    pub(super) const CLOSE: u32 = 6;
}

/// Bits of the status.
mod status {
    pub(super) const SUCCESS: u32 = 1;
    pub(super) const MESSAGE_WAITS: u32 = 2;
    pub(super) const CHECKPOINT: u32 = 0x10;
}

/// An open channel.
#[derive(Debug)]
pub(super) struct Channel {
    id: u32,
    cookie: [u32; 2],
}

/// What became of a call.
enum Called {
    Done(Registers),
    /// To be started anew.
    Cut,
}

impl Channel {
    /// Opens a channel for `protocol`.
    pub(super) fn open(door: &mut dyn Door, protocol: u32) -> anyhow::Result<Self> {
        let channel = Self { id: 0, cookie: [0; 2] };
        match channel.call(door, kind::OPEN, protocol | WITH_COOKIE)? {
            Called::Done(after) => Ok(Self { id: after.edx >> 16, cookie: [after.esi, after.edi] }),
            Called::Cut => bail!("the channel could not be opened"),
        }
    }

    /// Closes it.
    pub(super) fn close(self, door: &mut dyn Door) -> anyhow::Result<()> {
        self.call(door, kind::CLOSE, 0).map(drop)
    }

    /// Sends `message`, which may be empty.
    pub(super) fn send(&self, door: &mut dyn Door, message: &[u8]) -> anyhow::Result<()> {
        self.again(|| self.try_send(door, message))
    }

    /// The next message, if one waits.
    pub(super) fn receive(&self, door: &mut dyn Door) -> anyhow::Result<Option<Vec<u8>>> {
        self.again(|| self.try_receive(door))
    }

    fn again<T>(&self, mut attempt: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
        for _ in 0..MOST_TRIES {
            if let Some(done) = attempt()? {
                return Ok(done);
            }
        }
        bail!("channel {} is cut again and again", self.id)
    }

    /// `None`: cut.
    fn try_send(&self, door: &mut dyn Door, message: &[u8]) -> anyhow::Result<Option<()>> {
        let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
        ensure!(len <= MAX_BYTES, "a message of {len} bytes");
        let Called::Done(_) = self.call(door, kind::SEND_SIZE, len)? else { return Ok(None) };
        for piece in message.chunks(4) {
            let mut word = [0; 4];
            word.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            let sent = self.call(door, kind::SEND_PAYLOAD, u32::from_le_bytes(word))?;
            let Called::Done(_) = sent else { return Ok(None) };
        }
        Ok(Some(()))
    }

    /// `None`: cut.
    fn try_receive(&self, door: &mut dyn Door) -> anyhow::Result<Option<Option<Vec<u8>>>> {
        let Called::Done(first) = self.call(door, kind::RECEIVE_SIZE, 0)? else { return Ok(None) };
        if (first.ecx >> 16) & status::MESSAGE_WAITS == 0 {
            return Ok(Some(None));
        }
        expect(first, kind::SEND_SIZE)?;
        let len = first.ebx;
        ensure!(len <= MAX_BYTES, "a message of {len} bytes");
        let len = usize::try_from(len)?;
        let mut message = Vec::with_capacity(len);
        while message.len() < len {
            let piece = self.call(door, kind::RECEIVE_PAYLOAD, status::SUCCESS)?;
            let Called::Done(piece) = piece else { return Ok(None) };
            expect(piece, kind::SEND_PAYLOAD)?;
            let left = len - message.len();
            message.extend(piece.ebx.to_le_bytes().into_iter().take(left));
        }
        let Called::Done(_) = self.call(door, kind::RECEIVE_STATUS, status::SUCCESS)? else {
            return Ok(None);
        };
        Ok(Some(Some(message)))
    }

    fn call(&self, door: &mut dyn Door, kind: u32, word: u32) -> anyhow::Result<Called> {
        let [esi, edi] = self.cookie;
        let before = Registers { ebx: word, ecx: kind << 16 | COMMAND, edx: self.id << 16 | PORT, esi, edi };
        let after = door.call(before);
        match after.ecx >> 16 {
            status if status & status::SUCCESS != 0 => Ok(Called::Done(after)),
            status if status & status::CHECKPOINT != 0 => Ok(Called::Cut),
            status => bail!("channel {}, call {kind}: status {status:#x}", self.id),
        }
    }
}

fn expect(registers: Registers, kind: u32) -> anyhow::Result<()> {
    let found = registers.edx >> 16;
    ensure!(found == kind, "a message of kind {found} where one of kind {kind} was due");
    Ok(())
}
