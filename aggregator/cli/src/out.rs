//! What the command writes: data to stdout, all else to stderr, and nothing in it that could steer a terminal.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Both outputs. Everything the command says goes through here.
pub(crate) struct Out<'a> {
    data: &'a mut dyn Write,
    talk: &'a mut dyn Write,
    /// Tables may have colours.
    pub(crate) colour: bool,
    /// Somebody watches stderr: bars may move.
    pub(crate) watched: bool,
    /// The reader of stdout went away (`| head`); the rest is not written.
    closed: bool,
}

impl<'a> Out<'a> {
    pub(crate) fn new(data: &'a mut dyn Write, talk: &'a mut dyn Write, colour: bool, watched: bool) -> Self {
        Self { data, talk, colour, watched, closed: false }
    }

    /// Data, as it is. Callers have cleaned what came from the server.
    pub(crate) fn data(&mut self, text: &str) {
        if self.closed {
            return;
        }
        let written = self.data.write_all(text.as_bytes()).and_then(|()| self.data.flush());
        self.closed = written.is_err();
    }

    /// What is no text.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let written = self.data.write_all(bytes).and_then(|()| self.data.flush());
        self.closed = written.is_err();
    }

    /// True once nobody reads stdout any more.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// One line of talk. A stderr that can't be written to is nobody's loss.
    pub(crate) fn say(&mut self, line: &str) {
        let _gone: io::Result<()> = writeln!(self.talk, "{line}");
    }

    /// Talk without an end of line: a question.
    pub(crate) fn prompt(&mut self, text: &str) {
        let _gone: io::Result<()> = self.talk.write_all(text.as_bytes()).and_then(|()| self.talk.flush());
    }
}

/// One line that no terminal obeys: control characters, and those that turn the direction of writing, are shown as escapes.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => cleaned.push_str("\\n"),
            '\t' => cleaned.push_str("\\t"),
            '\r' => cleaned.push_str("\\r"),
            steering if steers(steering) => {
                let _infallible = write!(cleaned, "\\u{{{:x}}}", u32::from(steering));
            }
            plain => cleaned.push(plain),
        }
    }
    cleaned
}

/// The same for JSON text, by JSON's own escapes; line ends and tabs between values stay.
pub(crate) fn clean_json(json: &str) -> String {
    let mut cleaned = String::with_capacity(json.len());
    for letter in json.chars() {
        if steers(letter) && !matches!(letter, '\n' | '\t') {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                let _infallible = write!(cleaned, "\\u{unit:04x}");
            }
        } else {
            cleaned.push(letter);
        }
    }
    cleaned
}

fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn nothing_from_a_server_steers_the_terminal() {
        for (text, shown) in [
            ("web \u{1f426} größe", "web \u{1f426} größe"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("abc\u{202e}txt", "abc\\u{202e}txt"),
            ("\u{7f}\u{0}", "\\u{7f}\\u{0}"),
        ] {
            assert_eq!(clean(text), shown);
        }
    }

    #[test]
    fn cleaned_json_means_the_same() {
        let value = serde_json::json!({"name": "\u{1b}[2J\u{9b}\u{202e}\u{7f} x"});
        let cleaned = clean_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!cleaned.chars().any(|letter| steers(letter) && letter != '\n'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&cleaned).unwrap(), value);
    }
}
