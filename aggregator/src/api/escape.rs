//! Text of others inside documents of ours: nothing in it is markup there, or a formula in a spreadsheet.

use serde_json::Value;

/// A spreadsheet takes a cell that begins so for a formula (a blank or line break may stand before it).
const FORMULA: [char; 4] = ['=', '+', '-', '@'];

/// A value as the text of a spreadsheet's cell, not yet quoted or escaped.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => guarded(text),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Shown, never reckoned.
fn guarded(text: &str) -> String {
    if text.trim_start().starts_with(FORMULA) || text.starts_with(['\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

/// For the text and the quoted attributes of XML and HTML. Characters that neither may have become a replacement mark.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // As they are, attributes would turn them into blanks.
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(letter))),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            letter if letter.is_control() => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn no_text_is_markup_or_a_formula() {
        for (text, cell) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            (" =1", "' =1"),
            ("a=1", "a=1"),
        ] {
            assert_eq!(guarded(text), cell);
        }
        assert_eq!(escaped("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
        assert_eq!(escaped("a\0b\u{ffff}c\r\nd"), "a\u{fffd}b\u{fffd}c&#13;&#10;d");
    }
}
