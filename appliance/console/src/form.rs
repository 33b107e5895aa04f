//! A few lines that are typed: keys in, text out. Pure.
//!
//! Invariant: there is always a field that the keys go to.

use crate::model::Key;

/// Longest text of a field; it stays within its line of the screen.
pub const MOST_CHARACTERS: usize = 50;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is.
    pub label: &'static str,
    /// What stands in it.
    pub text: String,
}

/// What a key has made of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It stays.
    Stay,
    /// It is filled in.
    Done,
    /// It is given up.
    Leave,
}

/// Fields below each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// What it is about; its lines.
    pub title: String,
    /// At least one.
    fields: Vec<Field>,
    /// The field that the keys go to.
    at: usize,
    /// What is wrong with what was filled in.
    pub fault: Option<String>,
}

impl Form {
    /// A form with a first field, and more.
    #[must_use]
    pub fn new(title: impl Into<String>, fields: &[(&'static str, &str)]) -> Self {
        let fields = fields.iter().map(|(label, text)| Field { label, text: (*text).to_owned() }).collect();
        Self { title: title.into(), fields, at: 0, fault: None }
    }

    /// The fields, and which of them the keys go to.
    #[must_use]
    pub fn fields(&self) -> (&[Field], usize) {
        (&self.fields, self.at)
    }

    /// What stands in field `index`.
    #[must_use]
    pub fn text(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", |field| &field.text)
    }

    /// The one transition.
    pub fn press(&mut self, key: Key) -> Turn {
        let last = self.fields.len().saturating_sub(1);
        match key {
            Key::Escape => return Turn::Leave,
            Key::Enter if self.at == last => return Turn::Done,
            Key::Enter | Key::Down => self.at = self.at.saturating_add(1).min(last),
            Key::Up => self.at = self.at.saturating_sub(1),
            Key::Char(c) => self.change(|text| {
                if text.chars().count() < MOST_CHARACTERS {
                    text.push(c);
                }
            }),
            Key::Erase => self.change(|text| {
                text.pop();
            }),
            Key::Left | Key::Right | Key::Redraw => {}
        }
        Turn::Stay
    }

    fn change(&mut self, change: impl FnOnce(&mut String)) {
        if let Some(field) = self.fields.get_mut(self.at) {
            change(&mut field.text);
        }
        self.fault = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_typed_field_by_field_and_erased() {
        let mut form = Form::new("Two", &[("One", "x"), ("Other", "")]);
        let press = |form: &mut Form, keys: &[Key]| keys.iter().map(|key| form.press(*key)).last().unwrap();
        assert_eq!(press(&mut form, &[Key::Up, Key::Char('y'), Key::Left, Key::Enter]), Turn::Stay);
        form.fault = Some("wrong".into());
        assert_eq!(press(&mut form, &[Key::Char('a'), Key::Char('b'), Key::Erase]), Turn::Stay);
        assert_eq!((form.text(0), form.text(1), form.fault.clone()), ("xy", "a", None));
        assert_eq!(press(&mut form, &[Key::Erase, Key::Erase, Key::Down, Key::Enter]), Turn::Done);
        assert_eq!(form.text(1), "");
        assert_eq!(press(&mut form, &[Key::Up, Key::Enter]), Turn::Stay, "the second field comes next");
        assert_eq!(press(&mut form, &[Key::Escape]), Turn::Leave);
        press(&mut form, &[Key::Char('z'); 99]);
        assert_eq!(form.text(1).len(), MOST_CHARACTERS);
        assert_eq!(form.text(2), "");
    }
}
