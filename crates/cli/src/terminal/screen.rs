//! What a program has done to the terminal that outlives it, such as the alternate screen of an editor: taken note of, and undone when the
//! program has no chance to do it itself.

use std::collections::BTreeSet;

/// Private modes (`CSI ? n h`) that are off on a terminal that is at rest: cursor keys, alternate screens, mouse reports, pasting in brackets.
const MODES: [u16; 12] = [1, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004];
/// The cursor is on.
const CURSOR: u16 = 25;
/// Longer sequences are none of those that matter here.
const LONGEST: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Screen {
    state: State,
    set: BTreeSet<u16>,
    cursor_is_off: bool,
    keypad: bool,
    /// `modifyOtherKeys` of xterm.
    other_keys: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    Escape,
    Sequence(Vec<u8>),
}

impl Screen {
    /// The program has written this.
    pub(super) fn shows(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = match (std::mem::take(&mut self.state), byte) {
                (_, 0x1b) => State::Escape,
                (State::Escape, b'[') => State::Sequence(Vec::new()),
                (State::Escape, b'=') => {
                    self.keypad = true;
                    State::Text
                }
                (State::Escape, b'>') => {
                    self.keypad = false;
                    State::Text
                }
                (State::Sequence(parameters), 0x40..=0x7e) => {
                    self.obeys(&parameters, byte);
                    State::Text
                }
                (State::Sequence(mut parameters), _) if parameters.len() < LONGEST => {
                    parameters.push(byte);
                    State::Sequence(parameters)
                }
                _ => State::Text,
            };
        }
    }

    fn obeys(&mut self, parameters: &[u8], end: u8) {
        let Ok(parameters) = std::str::from_utf8(parameters) else { return };
        if let (Some(keys), b'm') = (parameters.strip_prefix(">4"), end) {
            self.other_keys = keys.strip_prefix(';').is_some_and(|value| value != "0");
            return;
        }
        let (Some(modes), b'h' | b'l') = (parameters.strip_prefix('?'), end) else { return };
        for mode in modes.split(';').filter_map(|mode| mode.parse().ok()) {
            match (mode, end) {
                (CURSOR, _) => self.cursor_is_off = end == b'l',
                (mode, b'h') if MODES.contains(&mode) => drop(self.set.insert(mode)),
                (mode, _) => drop(self.set.remove(&mode)),
            }
        }
    }

    /// What undoes all of it.
    pub(super) fn at_rest(&self) -> String {
        let mut undo = String::new();
        for mode in &self.set {
            undo += &format!("\u{1b}[?{mode}l");
        }
        if self.cursor_is_off {
            undo += "\u{1b}[?25h";
        }
        if self.keypad {
            undo += "\u{1b}>";
        }
        if self.other_keys {
            undo += "\u{1b}[>4m";
        }
        if !undo.is_empty() {
            // Colours as well.
            undo += "\u{1b}[m";
        }
        undo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, undo: &str) {
        for size in 1..=written.len() {
            let mut screen = Screen::default();
            written.as_bytes().chunks(size).for_each(|piece| screen.shows(piece));
            assert_eq!(screen.at_rest(), undo, "{written:?} in pieces of {size}");
        }
    }

    #[test]
    fn what_an_editor_leaves_behind_is_undone() {
        check("plain text \u{1b}[31mred\u{1b}[m ä\u{1b}]0;title\u{7}", "");
        check("\u{1b}[?1049h\u{1b}[?1h\u{1b}=\u{1b}[?2004h", "\u{1b}[?1l\u{1b}[?1049l\u{1b}[?2004l\u{1b}>\u{1b}[m");
        check("\u{1b}[?1049h\u{1b}[?1h\u{1b}=text\u{1b}[?1l\u{1b}>\u{1b}[?1049l", "");
        check("\u{1b}[?25l\u{1b}[?1000;1006h", "\u{1b}[?1000l\u{1b}[?1006l\u{1b}[?25h\u{1b}[m");
        check("\u{1b}[?25l\u{1b}[?12;25h", "");
        check("\u{1b}[>4;2m", "\u{1b}[>4m\u{1b}[m");
        check("\u{1b}[>4;2m\u{1b}[>4;m", "\u{1b}[>4m\u{1b}[m");
        check("\u{1b}[>4;2m\u{1b}[>4m", "");
        check("\u{1b}[?9999h\u{1b}[?h\u{1b}[?1049", "");
    }
}
