//! What the menu shows and does: events in, commands out. Pure and total.
//!
//! Invariant: in each screen, every key has a meaning or none; none of them leads to a command except through
//! [`Screen::Confirm`], or a [`Screen::Form`] that asks for a phrase, but for those that take nothing away: [`Command::OfferPairing`], `LinkBundle`, `Test`, `ReadClock`,
//! `Redraw` and `Quit`.

use crate::checks::{self, Check, Finding};
use crate::clock;
use crate::form::{Form, Turn};
use crate::stake::{self, Serving};
use control::api::{Status, moving_with};
use control::network::Network;
use control::settings::Settings;
use std::time::SystemTime;

/// A key, as far as the menu has a use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// One column to the left.
    Left,
    /// One column to the right.
    Right,
    /// Take what is chosen.
    Enter,
    /// Back.
    Escape,
    /// Take the last character away.
    Erase,
    /// A character.
    Char(char),
    /// Draw everything anew (Ctrl-L): a serial terminal that has just been plugged in shows nothing.
    Redraw,
}

/// What the node said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything, as of the moment of asking.
    pub status: Status,
    /// SHA-256 of the web console's certificate.
    pub fingerprint: String,
}

/// What happens to the menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// The node was asked for its state.
    Asked(Result<Box<Snapshot>, String>),
    /// What the machine has told since its start, the latest last.
    Noticed(Vec<String>),
    /// What a test of the network has found.
    Tested(Vec<Finding>),
    /// What the clock shows.
    Clock(SystemTime),
    /// A command has ended: a sentence either way.
    Ended(Result<String, String>),
}

/// What the menu wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Show a code for another node.
    OfferPairing,
    /// Move the service of a volume to the in-sync peer.
    HandOver(String),
    /// Make another admin password and show it.
    ResetPassword,
    /// Show a link to the support bundle.
    LinkBundle,
    /// Put the machine elsewhere on its network, and restart it.
    SetNetwork(Network),
    /// Try what the network reaches.
    Test(Vec<Check>),
    /// Show the clock, before it is set.
    ReadClock,
    /// Set the machine's clock.
    SetClock(SystemTime),
    /// Give the terminal to a shell.
    Shell,
    /// Erase this node and restart the machine; the losses that were accepted, a sentence each.
    Reset(Vec<String>),
    /// Restart the machine.
    Reboot,
    /// Switch the machine off.
    PowerOff,
    /// Draw everything anew.
    Redraw,
    /// Leave the menu.
    Quit,
}

/// What does not change while the menu runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub name: String,
    /// Where the web console is, or `None` without one.
    pub url: Option<String>,
    /// Its settings at that start.
    pub settings: Settings,
    /// The menu belongs to a machine: there is something to switch off.
    pub machine: bool,
    /// The menu was started by someone who wants the terminal back.
    pub borrowed: bool,
}

/// A line of the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// See [`Command::OfferPairing`].
    OfferPairing,
    /// See [`Command::HandOver`].
    HandOver,
    /// See [`Command::ResetPassword`].
    ResetPassword,
    /// See [`Command::LinkBundle`].
    LinkBundle,
    /// See [`Command::SetNetwork`].
    SetNetwork,
    /// See [`Command::Test`].
    Test,
    /// See [`Command::SetClock`].
    SetClock,
    /// See [`Command::Shell`].
    Shell,
    /// See [`Command::Reset`].
    Reset,
    /// See [`Command::Reboot`].
    Reboot,
    /// See [`Command::PowerOff`].
    PowerOff,
    /// See [`Command::Quit`].
    Quit,
}

/// Where a line of the menu is shown.
type Shown = fn(&Place) -> bool;

/// The menu: item, its key, its words, where it is shown.
pub const MENU: &[(Item, char, &str, Shown)] = &[
    (Item::OfferPairing, 'p', "Offer pairing", |_| true),
    (Item::HandOver, 'h', "Hand a volume over", |_| true),
    (Item::ResetPassword, 'a', "Make a new admin password", |_| true),
    (Item::LinkBundle, 'b', "Link to the support bundle", |place| place.url.is_some()),
    (Item::SetNetwork, 'n', "Configure the network", |place| place.machine),
    (Item::Test, 't', "Test the network", |_| true),
    (Item::SetClock, 'c', "Set the clock", |place| place.machine),
    (Item::Shell, 's', "Rescue shell", |place| place.machine),
    (Item::Reset, 'f', "Factory reset", |place| place.machine),
    (Item::Reboot, 'r', "Reboot this node", |place| place.machine),
    (Item::PowerOff, 'o', "Power off this node", |place| place.machine),
    (Item::Quit, 'q', "Leave this menu", |place| place.borrowed),
];

/// Lines of the menu beside each other; a column is filled before the next.
pub const MENU_ROWS: usize = 6;

/// What has to be typed where a reset costs more than the node.
pub const ACCEPT: &str = "accept the loss";
/// Volumes that are named at a time.
pub(crate) const MOST_LOSSES: usize = 6;

/// What a form is filled in for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// See [`Command::SetNetwork`].
    Network,
    /// See [`Command::Test`].
    Test,
    /// See [`Command::SetClock`].
    Clock,
    /// See [`Command::Reset`]: the node's name.
    Reset,
    /// [`ACCEPT`], for these sentences.
    Loss(Vec<String>),
}

/// What is in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// The menu itself.
    Menu,
    /// Which of the volumes, by its place among [`Model::volumes`].
    Volumes(usize),
    /// Something is to be typed.
    Form(Purpose, Form),
    /// A question: what it is about, and what happens if it is answered with yes.
    Confirm(String, Command),
    /// A command is under way.
    Busy,
    /// See [`Event::Tested`].
    Findings(Vec<Finding>),
    /// How it ended.
    Message(Result<String, String>),
}

/// The menu's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Where it runs.
    pub place: Place,
    /// What is known of the node; `None`: not asked yet.
    pub known: Option<Result<Box<Snapshot>, String>>,
    /// See [`Event::Noticed`].
    pub notices: Vec<String>,
    /// What is in front.
    pub screen: Screen,
    /// The chosen line of the menu.
    pub chosen: usize,
}

impl Model {
    /// A menu that knows nothing of its node yet.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self { place, known: None, notices: Vec::new(), screen: Screen::Menu, chosen: 0 }
    }

    /// The menu's lines on this machine.
    pub fn items(&self) -> impl Iterator<Item = (Item, char, &'static str)> + '_ {
        MENU.iter().filter(|line| (line.3)(&self.place)).map(|line| (line.0, line.1, line.2))
    }

    /// Names of the volumes, as far as known.
    #[must_use]
    pub fn volumes(&self) -> Vec<&str> {
        match &self.known {
            Some(Ok(known)) => known.status.volumes.iter().map(|volume| volume.name.as_str()).collect(),
            Some(Err(_)) | None => Vec::new(),
        }
    }

    /// The one transition.
    pub fn handle(&mut self, event: Event) -> Option<Command> {
        match event {
            Event::Asked(answer) => {
                self.known = Some(answer);
                self.keep_choice_in_range();
                None
            }
            Event::Noticed(notices) => {
                self.notices = notices;
                None
            }
            Event::Clock(now) => {
                let title = format!("The clock shows {} UTC. It is to be, in UTC:", clock::show(now));
                let form = Form::new(title, &[("YYYY-MM-DD HH:MM[:SS]", "")]);
                self.screen = Screen::Form(Purpose::Clock, form);
                None
            }
            Event::Tested(findings) => {
                self.screen = Screen::Findings(findings);
                None
            }
            Event::Ended(outcome) => {
                self.screen = Screen::Message(outcome);
                None
            }
            Event::Key(Key::Redraw) => Some(Command::Redraw),
            Event::Key(key) => self.press(key),
        }
    }

    /// A volume may be deleted while the list is open.
    fn keep_choice_in_range(&mut self) {
        let count = self.volumes().len();
        if let Screen::Volumes(chosen) = self.screen {
            self.screen = match count.checked_sub(1) {
                Some(last) => Screen::Volumes(chosen.min(last)),
                None => Screen::Menu,
            };
        }
    }

    fn press(&mut self, key: Key) -> Option<Command> {
        match (self.screen.clone(), key) {
            (Screen::Menu, key) => self.press_in_menu(key),
            (Screen::Volumes(chosen), key) => {
                self.press_in_volumes(chosen, key);
                None
            }
            (Screen::Form(purpose, mut form), key) => {
                let (screen, command) = match form.press(key) {
                    Turn::Stay => (Screen::Form(purpose, form), None),
                    Turn::Leave => (Screen::Menu, None),
                    Turn::Done => self.take_form(purpose, form),
                };
                self.screen = screen;
                command
            }
            (Screen::Confirm(_, command), Key::Char('y' | 'Y')) => {
                self.screen = Screen::Busy;
                Some(command)
            }
            (Screen::Confirm(..), Key::Char('n' | 'N') | Key::Escape)
            | (Screen::Message(_) | Screen::Findings(_), Key::Enter | Key::Escape) => {
                self.screen = Screen::Menu;
                None
            }
            (Screen::Confirm(..) | Screen::Message(_) | Screen::Findings(_) | Screen::Busy, _) => None,
        }
    }

    fn press_in_menu(&mut self, key: Key) -> Option<Command> {
        let last = self.items().count().saturating_sub(1);
        match key {
            Key::Up => self.chosen = self.chosen.saturating_sub(1),
            Key::Down => self.chosen = self.chosen.saturating_add(1).min(last),
            Key::Left => self.chosen = self.chosen.checked_sub(MENU_ROWS).unwrap_or(self.chosen),
            // The last column may be shorter.
            Key::Right if self.chosen / MENU_ROWS < last / MENU_ROWS => {
                self.chosen = self.chosen.saturating_add(MENU_ROWS).min(last);
            }
            Key::Enter => return self.take_line(self.chosen),
            Key::Char(letter) => {
                let found = self.items().position(|line| line.1 == letter.to_ascii_lowercase());
                if let Some(index) = found {
                    self.chosen = index;
                    return self.take_line(index);
                }
            }
            Key::Right | Key::Erase | Key::Escape | Key::Redraw => {}
        }
        None
    }

    fn take_line(&mut self, index: usize) -> Option<Command> {
        let item = self.items().nth(index)?.0;
        self.take(item)
    }

    /// The question; all volumes of a primary move together.
    fn about_hand_over(&self, name: &str) -> String {
        let all = self.snapshot().map_or(&[][..], |known| &known.status.volumes);
        let chosen = all.iter().find(|volume| volume.name == name);
        match chosen.map_or(1, |volume| moving_with(all, volume).len()) {
            0 | 1 => format!("Hand {name} over to the other node?"),
            several => format!("Hand all {several} volumes of {name}'s node over to the other node?"),
        }
    }

    fn press_in_volumes(&mut self, chosen: usize, key: Key) {
        let volumes = self.volumes();
        self.screen = match key {
            Key::Up => Screen::Volumes(chosen.saturating_sub(1)),
            Key::Down => Screen::Volumes(chosen.saturating_add(1).min(volumes.len().saturating_sub(1))),
            Key::Escape => Screen::Menu,
            Key::Enter => match volumes.get(chosen) {
                Some(name) => {
                    Screen::Confirm(self.about_hand_over(name), Command::HandOver((*name).to_owned()))
                }
                None => Screen::Menu,
            },
            Key::Left | Key::Right | Key::Erase | Key::Char(_) | Key::Redraw => Screen::Volumes(chosen),
        };
    }

    /// What comes after a form that was filled in.
    fn take_form(&self, purpose: Purpose, mut form: Form) -> (Screen, Option<Command>) {
        let next = match &purpose {
            Purpose::Network => self.network(&form),
            Purpose::Test => self.test(&form),
            Purpose::Clock => set_clock(&form),
            Purpose::Reset => self.reset(&form),
            Purpose::Loss(lost) => accept(&form, lost),
        };
        match next {
            Ok(next) => next,
            Err(fault) => {
                form.fault = Some(fault);
                (Screen::Form(purpose, form), None)
            }
        }
    }

    fn network(&self, form: &Form) -> Result<(Screen, Option<Command>), String> {
        let network = Network::typed(form.text(0), form.text(1))
            .and_then(|n| self.place.settings.with_network(n).map(|_| n));
        let network = network.map_err(|fault| fault.to_string())?;
        let gateway = network.gateway.map_or("no gateway".into(), |gateway| format!("gateway {gateway}"));
        let question = format!("Restart {} with address {network}, {gateway}?", self.place.name);
        Ok((Screen::Confirm(question, Command::SetNetwork(network)), None))
    }

    fn test(&self, form: &Form) -> Result<(Screen, Option<Command>), String> {
        let checks = match form.text(0).trim() {
            "" => checks::all(self),
            address => vec![checks::typed(address)?],
        };
        if checks.is_empty() {
            return Err("neither a gateway nor members of a cluster are known: type an address".into());
        }
        Ok((Screen::Busy, Some(Command::Test(checks))))
    }

    /// What the node last said; `None` if it was silent.
    fn snapshot(&self) -> Option<&Snapshot> {
        self.known.as_ref().and_then(|known| known.as_deref().ok())
    }

    fn reset(&self, form: &Form) -> Result<(Screen, Option<Command>), String> {
        if form.text(0) != self.place.name {
            return Err(format!("this node's name is {}", self.place.name));
        }
        let lost = stake::lost_by_reset(&self.place.name, self.snapshot());
        if lost.is_empty() {
            return Ok((Screen::Busy, Some(Command::Reset(lost))));
        }
        let more = lost.len().saturating_sub(MOST_LOSSES);
        let mut title: Vec<String> = lost.iter().take(MOST_LOSSES).cloned().collect();
        if more > 0 {
            title.push(format!("... and {more} more volumes."));
        }
        title.push(format!("Type \"{ACCEPT}\" to go on:"));
        Ok((Screen::Form(Purpose::Loss(lost), Form::new(title.join("\n"), &[("", "")])), None))
    }

    /// Whether the node is known to be in a cluster.
    fn in_cluster(&self) -> bool {
        matches!(&self.known, Some(Ok(known)) if known.status.cluster.is_some())
    }

    fn take(&mut self, item: Item) -> Option<Command> {
        let (screen, command) = match item {
            Item::OfferPairing => (Screen::Busy, Some(Command::OfferPairing)),
            Item::LinkBundle => (Screen::Busy, Some(Command::LinkBundle)),
            Item::Quit => return Some(Command::Quit),
            Item::HandOver if self.volumes().is_empty() => {
                (Screen::Message(Err("There is no volume to hand over.".into())), None)
            }
            Item::HandOver => (Screen::Volumes(0), None),
            Item::ResetPassword => {
                let question = "Make a new admin password for this node? The current one ends.";
                (Screen::Confirm(question.into(), Command::ResetPassword), None)
            }
            Item::SetNetwork if self.in_cluster() => {
                let reason = format!(
                    "{} is in a cluster, whose nodes know each other by address.\n\
                     A factory reset makes it a new node, which can be paired at another one.",
                    self.place.name
                );
                (Screen::Message(Err(reason)), None)
            }
            Item::SetNetwork => {
                let network = self.place.settings.network();
                let gateway = network.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
                let fields =
                    [("Address/prefix length", &*network.to_string()), ("Gateway, or nothing", &gateway)];
                (Screen::Form(Purpose::Network, Form::new("This node's own address:", &fields)), None)
            }
            Item::Test => {
                let title = "An address to try, ADDRESS (echo) or ADDRESS:PORT (connect);\n\
                             nothing for gateway, members and portal:";
                (Screen::Form(Purpose::Test, Form::new(title, &[("Address", "")])), None)
            }
            Item::SetClock => match stake::serving(&self.place.name, self.snapshot()) {
                Serving::Volume(volume) => (Screen::Message(Err(stake::clock_of_primary(&volume))), None),
                Serving::Nothing | Serving::Unknown => (Screen::Busy, Some(Command::ReadClock)),
            },
            Item::Shell => {
                let question = "Open a shell on this terminal? It can do anything to this node and its data.";
                (Screen::Confirm(question.into(), Command::Shell), None)
            }
            Item::Reset => {
                let mut title =
                    "A factory reset erases this node's settings, identity, password and logs, and\n\
                                 takes its labels off its data disks; then it restarts. No way back.\n"
                        .to_owned();
                if self.in_cluster() {
                    title += "Its cluster goes on counting it as a member that is away.\n";
                }
                title += "Type its name to go on:";
                (Screen::Form(Purpose::Reset, Form::new(title, &[("Name of this node", "")])), None)
            }
            Item::Reboot => (Screen::Confirm(format!("Reboot {}?", self.place.name), Command::Reboot), None),
            Item::PowerOff => {
                (Screen::Confirm(format!("Power off {}?", self.place.name), Command::PowerOff), None)
            }
        };
        self.screen = screen;
        command
    }
}

fn accept(form: &Form, lost: &[String]) -> Result<(Screen, Option<Command>), String> {
    match form.text(0) {
        ACCEPT => Ok((Screen::Busy, Some(Command::Reset(lost.to_vec())))),
        _ => Err(format!("type \"{ACCEPT}\", or Esc")),
    }
}

fn set_clock(form: &Form) -> Result<(Screen, Option<Command>), String> {
    let time = clock::typed(form.text(0))?;
    let question =
        format!("Set the clock to {} UTC? A lease that this node holds ends with it.", clock::show(time));
    Ok((Screen::Confirm(question, Command::SetClock(time)), None))
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
