//! What an imported guest calls itself. Whether its XML is acceptable is for the host to say.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};
use roost_protocol::message::TEXT;

/// The text of `<domain><name>`, cut to what people read.
pub(super) fn name(xml: &str) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    let mut depth = 0_usize;
    let mut name: Option<String> = None;
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                depth += 1;
                if depth == 2 && tag.name().as_ref() == "name" {
                    name = Some(String::new());
                }
            }
            Event::End(_) => match name.take() {
                Some(name) if name.trim().is_empty() => return None,
                Some(name) => return Some(name.chars().take(TEXT).collect()),
                None => depth = depth.saturating_sub(1),
            },
            Event::Text(text) => name = name.map(|name| name + &text.xml10_content()),
            Event::GeneralRef(reference) => name = name.map(|name| name + &letter(&reference)),
            Event::Eof => return None,
            Event::Empty(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => {}
        }
    }
}

/// What `&lt;` or `&#60;` stands for; entities that the text itself declares stand for nothing.
fn letter(reference: &BytesRef<'_>) -> String {
    match reference.resolve_char_ref() {
        Ok(Some(letter)) => letter.to_string(),
        Ok(None) | Err(_) => resolve_predefined_entity(reference).unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_imported_guests_name_is_read_and_nothing_else_is_taken_for_it() {
        for (xml, expected) in [
            ("<domain type='kvm'><name>web</name></domain>", Some("web")),
            ("<domain><metadata><name>no</name></metadata><name>a&amp;b &#60;c</name></domain>", Some("a&b <c")),
            ("<domain><!-- <name>no</name> --><memory>1</memory><name>w</name>", Some("w")),
            ("<!DOCTYPE d [<!ENTITY x 'no'>]><domain><name>w&x;</name></domain>", Some("w")),
            ("<domain><name></name></domain>", None),
            ("<name>no</name>", None),
            ("not xml", None),
            ("<domain><name>", None),
        ] {
            assert_eq!(name(xml).as_deref(), expected, "{xml}");
        }
        let long = format!("<domain><name>{}</name></domain>", "\u{1f989}".repeat(10_000));
        assert_eq!(name(&long).unwrap().chars().count(), TEXT);
    }
}
