//! The loop that owns the terminal: bytes in, drawings out.

use crate::ansi::Ansi;
use crate::keys::Parser;
use crate::model::{Command, Event, Key, Model, Place};
use crate::{node, shell, view};
use anyhow::Context;
use control::settings::Settings;
use ratatui::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

/// The terminal of whoever calls.
const OWN: &str = "/dev/tty";
/// How long a read waits: the delay of an Escape and of the node's news.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Before a vanished terminal is opened again.
const AGAIN: Duration = Duration::from_secs(1);
/// Pieces of news that wait for the menu to take them.
const NEWS: usize = 8;
/// After this long without a key, someone may have plugged in another terminal: the next key draws everything.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// Runs the menu of the node at `dir` on the terminal at `tty`, opening it again whenever it vanishes; without one, on
/// the caller's, until that is gone.
///
/// # Errors
///
/// Settings that can't be read, or no terminal to run on.
pub fn run(dir: &Path, tty: Option<&Path>) -> anyhow::Result<()> {
    let place = place(dir, tty.is_none())?;
    let mut model = Model::new(place.clone());
    let (commands, incoming) = channel();
    // Bounded: a menu without its terminal takes none, and memory is limited.
    let (events, news) = sync_channel(NEWS);
    node::serve(dir.to_owned(), place, incoming, events)?;
    loop {
        let path = tty.unwrap_or(Path::new(OWN));
        let shown = Screen::open(path).and_then(|mut screen| screen.show(&mut model, &commands, &news));
        match (shown, tty) {
            (Ok(Left::Quit), _) => return Ok(()),
            (Ok(Left::Shell), _) => {
                let ended = shell::run(path);
                model.handle(Event::Ended(ended));
            }
            (Ok(Left::NodeThreadEnded), _) => anyhow::bail!("the thread that asks the node has ended"),
            (Err(error), None) => return Err(error).context(path.display().to_string()),
            (Err(_), Some(_)) => std::thread::sleep(AGAIN),
        }
    }
}

fn place(dir: &Path, borrowed: bool) -> anyhow::Result<Place> {
    let path = dir.join(control::paths::SETTINGS);
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let settings = Settings::parse(&text).with_context(|| path.display().to_string())?;
    let address = std::net::SocketAddr::new(settings.address, settings.ports.web);
    let host = match settings.address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let url =
        if settings.ports.web == 443 { format!("https://{host}/") } else { format!("https://{address}/") };
    Ok(Place {
        name: settings.name.clone(),
        url: settings.web.then_some(url),
        settings,
        machine: webui::machine::is_one(dir),
        borrowed,
    })
}

/// Why the menu was left on a terminal that works.
enum Left {
    Quit,
    Shell,
    NodeThreadEnded,
}

/// An open terminal in raw mode; gets its settings back when dropped.
struct Screen {
    tty: File,
    before: Termios,
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = rustix::io::write(&self.tty, b"\x1b[0m\x1b[?25h\x1b[25;1H\r\n");
        let _ = tcsetattr(&self.tty, OptionalActions::Now, &self.before);
    }
}

impl Screen {
    fn open(path: &Path) -> io::Result<Self> {
        // NOCTTY: a hang-up of the line is an error to read, not a signal that ends the menu.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let before = tcgetattr(&tty)?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        tcsetattr(&tty, OptionalActions::Now, &raw)?;
        Ok(Self { tty, before })
    }

    /// Until the terminal fails, or the node's thread is gone.
    fn show(
        &mut self,
        model: &mut Model,
        commands: &Sender<Command>,
        news: &Receiver<Event>,
    ) -> io::Result<Left> {
        let mut terminal = Terminal::new(Ansi::new(self.tty.try_clone()?))?;
        let mut parser = Parser::default();
        let mut last_key = Instant::now();
        terminal.clear()?;
        loop {
            terminal.draw(|frame| view::draw(model, frame))?;
            let mut events = Vec::new();
            let keys = self.keys(&mut parser)?;
            if !keys.is_empty() {
                if last_key.elapsed() >= LEFT_ALONE {
                    events.push(Event::Key(Key::Redraw));
                }
                last_key = Instant::now();
            }
            events.extend(keys.into_iter().map(Event::Key));
            loop {
                match news.try_recv() {
                    Ok(event) => events.push(event),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(Left::NodeThreadEnded),
                }
            }
            for event in events {
                match model.handle(event) {
                    Some(Command::Redraw) => terminal.clear()?,
                    Some(Command::Quit) => return Ok(Left::Quit),
                    Some(Command::Shell) => return Ok(Left::Shell),
                    Some(command) if commands.send(command.clone()).is_err() => {
                        return Ok(Left::NodeThreadEnded);
                    }
                    Some(_) | None => {}
                }
            }
        }
    }

    /// What was pressed within a tick.
    fn keys(&self, parser: &mut Parser) -> io::Result<Vec<Key>> {
        let mut waiting = [PollFd::new(&self.tty, PollFlags::IN)];
        match poll(&mut waiting, Some(&TICK)) {
            Ok(0) => return Ok(parser.pause().into_iter().collect()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; 64];
        let count = (&self.tty).read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(parser.feed(bytes.get(..count).unwrap_or_default()))
    }
}
