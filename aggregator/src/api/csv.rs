//! Lists as RFC 4180 text, safe to open in a spreadsheet.

use super::escape::cell;
use super::page::Page;

/// The page with a header line; lines end with CRLF.
pub(crate) fn write(page: &Page) -> String {
    let mut text = page.fields.join(",");
    text.push_str("\r\n");
    for row in &page.rows {
        let cells: Vec<String> = row.iter().map(|value| quoted(&cell(value))).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod test {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn no_cell_becomes_a_formula_and_no_line_breaks_the_table() {
        for (value, text) in [
            (json!("=1+1"), "'=1+1"),
            (json!("+1"), "'+1"),
            (json!("-1"), "'-1"),
            (json!("@SUM(A1)"), "'@SUM(A1)"),
            (json!(" =1"), "' =1"),
            (json!("\t=1"), "'\t=1"),
            (json!(-1), "-1"),
            (json!("a,\"b\"\r\nc"), "\"a,\"\"b\"\"\r\nc\""),
            (json!(["x", 1]), "\"[\"\"x\"\",1]\""),
            (json!(null), ""),
        ] {
            assert_eq!(quoted(&cell(&value)), text);
        }
    }

    #[test]
    fn a_table_has_a_header_and_ends_its_lines_with_crlf() {
        let page = Page { rows: vec![vec![Value::Null, json!(1)]], fields: vec!["a", "b"], ..Page::default() };
        assert_eq!(write(&page), "a,b\r\n,1\r\n");
    }
}
