//! Keys out of a terminal's bytes: ASCII, and the cursor keys as ECMA-48 and VT100 send them. Pure.

use crate::model::Key;

const ESCAPE: u8 = 0x1b;

/// Keeps what a read has cut in two.
#[derive(Debug, Default)]
pub struct Parser {
    pending: Vec<u8>,
}

impl Parser {
    /// The keys in `bytes`, and in what was left of earlier ones.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        for &byte in bytes {
            match self.pending.as_slice() {
                [] if byte == ESCAPE => self.pending.push(byte),
                [] => keys.extend(plain(byte)),
                [_] if matches!(byte, b'[' | b'O') => self.pending.push(byte),
                [_] => {
                    keys.push(Key::Escape);
                    self.pending.clear();
                    if byte == ESCAPE { self.pending.push(byte) } else { keys.extend(plain(byte)) }
                }
                // ECMA-48 5.4: parameters and intermediates, then one final byte.
                _ if (0x20..0x40).contains(&byte) => {}
                _ => {
                    self.pending.clear();
                    keys.extend(cursor(byte));
                }
            }
        }
        keys
    }

    /// Nothing followed for a while: an escape that stands alone is the key of that name.
    pub fn pause(&mut self) -> Option<Key> {
        let alone = self.pending.as_slice() == [ESCAPE];
        self.pending.clear();
        alone.then_some(Key::Escape)
    }
}

fn plain(byte: u8) -> Option<Key> {
    match byte {
        b'\r' | b'\n' => Some(Key::Enter),
        b'\t' => Some(Key::Down),
        0x08 | 0x7f => Some(Key::Erase),
        0x0c => Some(Key::Redraw),
        0x20..0x7f => Some(Key::Char(char::from(byte))),
        _ => None,
    }
}

fn cursor(byte: u8) -> Option<Key> {
    match byte {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'C' => Some(Key::Right),
        b'D' => Some(Key::Left),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_keys_may_arrive_in_pieces() {
        let mut parser = Parser::default();
        assert_eq!(
            parser.feed(b"\x1b[A\x1bOBx\r\x0c\x1b[D\x1b[C\x7f\x08\t"),
            [
                Key::Up,
                Key::Down,
                Key::Char('x'),
                Key::Enter,
                Key::Redraw,
                Key::Left,
                Key::Right,
                Key::Erase,
                Key::Erase,
                Key::Down,
            ]
        );
        assert_eq!(parser.feed(b"\x1b"), []);
        assert_eq!(parser.feed(b"["), []);
        assert_eq!(parser.feed(b"B"), [Key::Down]);
        assert_eq!(parser.feed(b"\x1b[15~y"), [Key::Char('y')], "other keys are swallowed whole");
    }

    #[test]
    fn a_lone_escape_is_a_key_after_a_pause() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"\x1b"), []);
        assert_eq!(parser.pause(), Some(Key::Escape));
        assert_eq!(parser.pause(), None);
        assert_eq!(parser.feed(b"\x1bn"), [Key::Escape, Key::Char('n')]);
    }
}
