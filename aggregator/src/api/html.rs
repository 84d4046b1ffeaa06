//! Lists as one plain HTML table: for a browser without our pages, and for the web queries of spreadsheets.

use super::escape::{cell, escaped};
use super::page::Page;

/// The page under this title; the whole document.
pub(super) fn write(title: &str, page: &Page) -> String {
    let mut html = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>");
    html.push_str(&escaped(title));
    html.push_str("</title></head>\n<body>\n<table>\n<caption>");
    html.push_str(&escaped(title));
    html.push_str("</caption>\n<thead><tr>");
    page.fields.iter().for_each(|name| html.push_str(&format!("<th scope=\"col\">{}</th>", escaped(name))));
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in &page.rows {
        html.push_str("<tr>");
        row.iter().for_each(|value| html.push_str(&format!("<td>{}</td>", escaped(&cell(value)))));
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</body>\n</html>\n");
    html
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_cell_is_markup_or_a_formula() {
        for (value, text) in [
            (json!("<script>x</script>"), "&lt;script&gt;x&lt;/script&gt;"),
            (json!("=1+1"), "&#39;=1+1"),
            (json!(-1), "-1"),
            (json!(null), ""),
            (json!(["<b>"]), "[&quot;&lt;b&gt;&quot;]"),
        ] {
            assert_eq!(escaped(&cell(&value)), text);
        }
        let page = Page { rows: vec![vec![json!(1)]], fields: vec!["a"], ..Page::default() };
        let html = write("List <things>", &page);
        assert!(html.contains("<caption>List &lt;things&gt;</caption>"), "{html}");
        assert!(html.contains("<tr><th scope=\"col\">a</th></tr>") && html.contains("<tr><td>1</td></tr>"), "{html}");
    }
}
