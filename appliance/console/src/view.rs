//! How the menu looks: 80x25, ASCII, black and white.

use crate::form::Form;
use crate::model::{MENU_ROWS, Model, Screen, Snapshot};
use control::api::{Status, VolumeStatus};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

/// Columns drawn.
pub const COLUMNS: u16 = 80;
/// Rows drawn.
pub const ROWS: u16 = 25;
/// Volumes and problems shown; the web console shows all.
const MOST_LINES: usize = 4;
const MENU_ROW: u16 = 18;

/// Draws everything; the terminal sends what differs from the last drawing.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let mut lines = vec![rule(&format!("Futago {}", model.place.name)), String::new()];
    let url = model.place.url.as_deref().unwrap_or("(not run on this node)");
    lines.push(field("Web console", url));
    match &model.known {
        None => lines.push("  Asking the node ...".into()),
        Some(Err(reason)) => lines.push(format!("  THE NODE DOES NOT ANSWER: {reason}")),
        Some(Ok(known)) => state(known, &mut lines),
    }
    notices(&model.notices, &mut lines);
    for (row, text) in (0..MENU_ROW - 1).zip(&lines) {
        put(frame, row, Line::raw(ascii(text)));
    }
    put(frame, MENU_ROW - 1, Line::raw(rule("Menu")));
    let places = (0..2).flat_map(|column| (0..MENU_ROWS).map(move |row| (column, row)));
    for (index, ((column, row), (_, key, words))) in places.zip(model.items()).enumerate() {
        let text = format!(" {}  {words} ", key.to_ascii_uppercase());
        let (left, row) = (column * COLUMNS / 2, MENU_ROW.saturating_add(u16::try_from(row).unwrap_or(0)));
        put_at(frame, left, row, choice(&text, index == model.chosen));
    }
    put(frame, ROWS - 1, Line::raw("-- Arrows Enter: choose   Esc: back   Ctrl-L: draw anew"));
    front(model, frame);
}

fn state(known: &Snapshot, lines: &mut Vec<String>) {
    // 32 bytes as AB:CD:... are 95 columns: two lines.
    let (first, second) = known.fingerprint.split_at_checked(48).unwrap_or((&known.fingerprint, ""));
    lines.push(field("Certificate", first));
    lines.push(field("  SHA-256", second));
    lines.push(field("Cluster", &cluster(&known.status)));
    for volume in known.status.volumes.iter().take(MOST_LINES) {
        lines.push(field("Volume", &health(volume)));
    }
    more(known.status.volumes.len(), lines);
    for problem in known.status.problems.iter().take(MOST_LINES) {
        lines.extend(fold("!", problem));
    }
    more(known.status.problems.len(), lines);
}

/// The latest notices, as far as there is room for them.
fn notices(notices: &[String], lines: &mut Vec<String>) {
    let room = usize::from(MENU_ROW - 1).saturating_sub(lines.len());
    let folded: Vec<String> = notices.iter().flat_map(|notice| fold("*", notice)).collect();
    lines.extend(folded.into_iter().rev().take(room).collect::<Vec<_>>().into_iter().rev());
}

/// A sentence in lines of the screen's width, the first one marked.
fn fold(mark: &str, sentence: &str) -> Vec<String> {
    let mut lines = vec![mark.to_owned()];
    for word in sentence.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= usize::from(COLUMNS) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("  {word}")),
        }
    }
    lines
}

fn more(count: usize, lines: &mut Vec<String>) {
    if let Some(hidden) = count.checked_sub(MOST_LINES).filter(|hidden| *hidden > 0) {
        lines.push(format!("  ... and {hidden} more: see the web console"));
    }
}

fn cluster(status: &Status) -> String {
    let Some(cluster) = &status.cluster else { return "in none yet: create one, or offer pairing".into() };
    let online = cluster.members.iter().filter(|member| member.online).count();
    let majority = if cluster.quorum { "majority" } else { "NO MAJORITY" };
    format!("{online} of {} nodes online, {majority}", cluster.members.len())
}

fn health(volume: &VolumeStatus) -> String {
    let primary = volume.primary.as_deref().unwrap_or("nobody");
    let resync = volume.resync.as_ref().map(|resync| format!(" {} %", resync.percent)).unwrap_or_default();
    let state = format!("{:?}", volume.state).to_ascii_lowercase();
    format!("{}: {state}{resync}, served by {primary}", volume.name)
}

/// The box over the menu, if any.
fn front(model: &Model, frame: &mut Frame<'_>) {
    let lines = match &model.screen {
        Screen::Menu => return,
        Screen::Busy => vec![Line::raw(" Please wait ...")],
        Screen::Findings(findings) => {
            let lines = findings.iter().map(|finding| Line::raw(format!(" {}", ascii(&finding.to_string()))));
            lines.chain([Line::raw(" Enter: go on")]).collect()
        }
        Screen::Message(outcome) => {
            let text = match outcome {
                Ok(text) => text.clone(),
                Err(reason) => format!("Not done: {reason}"),
            };
            let lines = text.lines().map(|line| Line::raw(format!(" {}", ascii(line))));
            lines.chain([Line::raw(" Enter: go on")]).collect()
        }
        Screen::Form(_, form) => typed(form),
        Screen::Confirm(question, _) => {
            vec![Line::raw(format!(" {}", ascii(question))), Line::raw(" Y: yes   N: no")]
        }
        Screen::Volumes(chosen) => {
            let volumes = model.volumes();
            // Scrolls so that the chosen one is always among the lines shown.
            let first = chosen.saturating_sub(MOST_LINES - 1);
            let shown = volumes.iter().enumerate().skip(first).take(MOST_LINES);
            let lines = shown.map(|(index, name)| choice(&format!(" {} ", ascii(name)), index == *chosen));
            std::iter::once(Line::raw(" Which volume?")).chain(lines).collect()
        }
    };
    // As high as it has to be, over the menu at least, and over the state above it if need be.
    let height = u16::try_from(lines.len()).unwrap_or(ROWS).clamp(ROWS - 1 - MENU_ROW, ROWS - 2);
    let area = Rect::new(0, ROWS - 1 - height, COLUMNS, height).intersection(frame.area());
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).wrap(ratatui::widgets::Wrap { trim: false }), area);
}

fn typed(form: &Form) -> Vec<Line<'static>> {
    let (fields, at) = form.fields();
    let mut lines: Vec<Line<'_>> =
        form.title.lines().map(|line| Line::raw(format!(" {}", ascii(line)))).collect();
    lines.extend(fields.iter().enumerate().map(|(index, field)| {
        let (mark, end) = if index == at { ('>', "_") } else { (' ', "") };
        Line::raw(format!("{mark} {:<22} {}{end}", field.label, ascii(&field.text)))
    }));
    lines.push(Line::raw(match &form.fault {
        Some(fault) => format!(" Not so: {}", ascii(fault)),
        None => String::new(),
    }));
    lines.push(Line::raw(" Enter: next, at last go on   Esc: give up"));
    lines
}

fn choice(text: &str, chosen: bool) -> Line<'static> {
    // The arrow, too: some serial terminals have no reverse video.
    let mark = if chosen { ">" } else { " " };
    let style = if chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Line::from(vec![Span::raw(mark), Span::styled(text.to_owned(), style)])
}

fn put(frame: &mut Frame<'_>, row: u16, line: Line<'static>) {
    put_at(frame, 0, row, line);
}

fn put_at(frame: &mut Frame<'_>, left: u16, row: u16, line: Line<'static>) {
    let area = Rect::new(left, row, COLUMNS.saturating_sub(left), 1).intersection(frame.area());
    frame.render_widget(line, area);
}

fn field(name: &str, value: &str) -> String {
    format!("  {name:<13} {value}")
}

fn rule(title: &str) -> String {
    format!("{:-<width$}", format!("-- {title} "), width = usize::from(COLUMNS))
}

/// What comes from elsewhere must not move the cursor or need a font.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}
