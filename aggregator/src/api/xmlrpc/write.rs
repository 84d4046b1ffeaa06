//! Values as XML-RPC: `int` where it fits, else `i8`; absent members are left out, because not every client knows nil.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// A good answer.
pub(super) fn response(answer: &Value) -> String {
    let mut xml = format!("{HEAD}<methodResponse><params><param>");
    value(&mut xml, answer);
    xml.push_str("</param></params></methodResponse>\n");
    xml
}

/// A fault.
pub(super) fn fault(code: i32, text: &str) -> String {
    let mut xml = format!("{HEAD}<methodResponse><fault>");
    value(&mut xml, &serde_json::json!({"faultCode": code, "faultString": text}));
    xml.push_str("</fault></methodResponse>\n");
    xml
}

/// Values are ours and no deeper than the registry's schemas.
fn value(xml: &mut String, of: &Value) {
    xml.push_str("<value>");
    match of {
        Value::Null => xml.push_str("<string></string>"),
        Value::Bool(yes) => tag(xml, "boolean", if *yes { "1" } else { "0" }),
        Value::Number(of) => number(xml, of),
        Value::String(text) => tag(xml, "string", text),
        Value::Array(items) => {
            xml.push_str("<array><data>");
            items.iter().for_each(|item| value(xml, item));
            xml.push_str("</data></array>");
        }
        Value::Object(members) => structure(xml, members),
    }
    xml.push_str("</value>");
}

fn structure(xml: &mut String, members: &Map<String, Value>) {
    xml.push_str("<struct>");
    for (name, of) in members.iter().filter(|(_, of)| !of.is_null()) {
        xml.push_str("<member>");
        tag(xml, "name", name);
        value(xml, of);
        xml.push_str("</member>");
    }
    xml.push_str("</struct>");
}

fn number(xml: &mut String, number: &Number) {
    match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) if i32::try_from(whole).is_ok() => tag(xml, "int", &whole.to_string()),
        (Some(whole), _) => tag(xml, "i8", &whole.to_string()),
        // The format knows no exponent; this writes none.
        (None, Some(double)) => tag(xml, "double", &format!("{double}")),
        (None, None) => tag(xml, "string", &number.to_string()),
    }
}

fn tag(xml: &mut String, name: &str, text: &str) {
    // Writing into a String can't fail.
    let _ = write!(xml, "<{name}>");
    for letter in text.chars() {
        match letter {
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '&' => xml.push_str("&amp;"),
            // Parsers turn it into a line feed otherwise.
            '\r' => xml.push_str("&#13;"),
            '\t' | '\n' => xml.push(letter),
            // XML 1.0 has no way to write these; guests' names may have them.
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => xml.push('\u{fffd}'),
            _ => xml.push(letter),
        }
    }
    let _ = write!(xml, "</{name}>");
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_so_that_old_clients_read_them() {
        for (of, xml) in [
            (json!(1), "<int>1</int>"),
            (json!(2_147_483_648_u64), "<i8>2147483648</i8>"),
            (json!(0.5), "<double>0.5</double>"),
            (json!(1e-9), "<double>0.000000001</double>"),
            (json!(true), "<boolean>1</boolean>"),
            (json!("<&\u{1}\r"), "<string>&lt;&amp;\u{fffd}&#13;</string>"),
            (
                json!({"a": null, "b": []}),
                "<struct><member><name>b</name><value><array><data></data></array></value></member></struct>",
            ),
        ] {
            let mut written = String::new();
            value(&mut written, &of);
            assert_eq!(written, format!("<value>{xml}</value>"));
        }
    }
}
