//! A ratatui backend that writes ECMA-48 sequences which every terminal since the VT100 knows.

use crate::view::{COLUMNS, ROWS};
use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::Modifier;
use std::io::{self, Write};

/// Collects one drawing, then writes it at once: half a drawing is never seen on a quick terminal.
pub struct Ansi<W: Write> {
    out: W,
    buffer: Vec<u8>,
    /// Whether the terminal shows its cursor; unknown when it may be another one.
    cursor_shown: Option<bool>,
}

impl<W: Write> Ansi<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, buffer: Vec::new(), cursor_shown: None }
    }

    fn go_to(&mut self, position: Position) {
        let (row, column) = (u32::from(position.y) + 1, u32::from(position.x) + 1);
        self.put(format!("\x1b[{row};{column}H").as_bytes());
    }

    /// Ratatui asks for it with every drawing, also with one that changes nothing.
    fn set_cursor(&mut self, shown: bool) {
        if self.cursor_shown != Some(shown) {
            self.cursor_shown = Some(shown);
            self.put(if shown { b"\x1b[?25h" } else { b"\x1b[?25l" });
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
}

impl<W: Write> Backend for Ansi<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut next = None;
        let mut reversed = false;
        for (x, y, cell) in content {
            // The last cell is left alone: there some terminals scroll.
            if (x, y) == (COLUMNS - 1, ROWS - 1) {
                continue;
            }
            let position = Position::new(x, y);
            if next != Some(position) {
                self.go_to(position);
            }
            if cell.modifier.contains(Modifier::REVERSED) != reversed {
                reversed = !reversed;
                self.put(if reversed { b"\x1b[7m" } else { b"\x1b[0m" });
            }
            self.put(cell.symbol().as_bytes());
            // After the last column terminals disagree about where they are.
            next = (x + 1 < COLUMNS).then(|| Position::new(x + 1, y));
        }
        if reversed {
            self.put(b"\x1b[0m");
        }
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.set_cursor(false);
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.set_cursor(true);
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.go_to(position.into());
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.cursor_shown = None;
        self.put(b"\x1b[0m\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        if region == ClearType::All {
            self.cursor_shown = None;
        }
        let sequence: &[u8] = match region {
            ClearType::All => b"\x1b[2J",
            ClearType::AfterCursor => b"\x1b[J",
            ClearType::BeforeCursor => b"\x1b[1J",
            ClearType::CurrentLine => b"\x1b[2K",
            ClearType::UntilNewLine => b"\x1b[K",
        };
        self.put(sequence);
        Ok(())
    }

    fn size(&self) -> io::Result<Size> {
        Ok(Size::new(COLUMNS, ROWS))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: Size::new(COLUMNS, ROWS), pixels: Size::ZERO })
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.out.write_all(&self.buffer);
        self.buffer.clear();
        written?;
        self.out.flush()
    }
}
