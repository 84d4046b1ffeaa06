//! What a guest's definition says of its memory.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use roost_protocol::MiB;
use roost_protocol::memory::{MemoryWish, WEIGHT};

/// The name space of the mark that agents put on what they make.
const MARKER: &str = "https://roost.dev/guest/1";

/// As defined, not as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    /// `currentMemory`: what it has when nobody squeezes it.
    pub(crate) full: MiB,
    /// Its driver takes memory from the balloon before the guest kills a program.
    pub(crate) rescue: bool,
    pub(crate) wish: MemoryWish,
    /// Its pages may be merged; where its owner lets them a host may not (`act/apart.rs`).
    pub(crate) mergeable: bool,
    pub(crate) balloon: bool,
    /// Made by an agent, as its metadata says.
    pub(crate) ours: bool,
}

/// Reads a domain's XML; `None` when it isn't one.
pub(crate) fn read(xml: &str) -> Option<Definition> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let mut found = Definition { mergeable: true, ..Definition::default() };
    let mut apart = false;
    let (mut unit, mut memory, mut current) = (1_024, None, None);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                apart |= note(&path, &tag, &mut found);
                unit = bytes_of(attribute(&tag, "unit").as_deref());
                path.push(tag.name().0.to_owned());
            }
            Event::Empty(tag) => apart |= note(&path, &tag, &mut found),
            Event::End(_) => drop(path.pop()),
            Event::Text(text) => {
                let number = || -> Option<u64> { text.trim().parse().ok() };
                let place: Vec<&str> = path.iter().map(String::as_str).collect();
                match place.as_slice() {
                    ["domain", "memory"] => memory = number().map(|number| number.saturating_mul(unit)),
                    ["domain", "currentMemory"] => current = number().map(|number| number.saturating_mul(unit)),
                    _ => {}
                }
            }
            Event::Eof => break,
            Event::GeneralRef(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => {}
        }
    }
    found.full = MiB::of_bytes(current.or(memory)?);
    found.wish.share = found.mergeable || apart;
    Some(found)
}

/// Takes in one element; true for a mark that says that its host, not its owner, keeps its pages apart.
fn note(path: &[String], tag: &BytesStart<'_>, found: &mut Definition) -> bool {
    let place: Vec<&str> = path.iter().map(String::as_str).chain([tag.name().0]).collect();
    match place.as_slice() {
        ["domain", "memoryBacking", "nosharepages"] => found.mergeable = false,
        ["domain", "devices", "memballoon"] => {
            found.balloon = attribute(tag, "model").is_some_and(|model| model != "none");
            found.rescue = attribute(tag, "autodeflate").as_deref() == Some("on");
        }
        ["domain", "metadata", own] if own.ends_with(":guest") && is_mark(tag) => {
            found.ours = true;
            owed(tag, &mut found.wish);
            return attribute(tag, "apart").as_deref() == Some("yes");
        }
        _ => {}
    }
    false
}

fn is_mark(tag: &BytesStart<'_>) -> bool {
    tag.attributes().flatten().any(|attribute| attribute.value.as_ref() == MARKER)
}

/// What the guest is owed, as the agent that made it wrote on its mark.
fn owed(mark: &BytesStart<'_>, wish: &mut MemoryWish) {
    let number = |name: &str| attribute(mark, name)?.parse::<u64>().ok();
    let weight = number("weight").and_then(|weight| u32::try_from(weight).ok());
    wish.weight = weight.filter(|weight| (1..=WEIGHT).contains(weight)).unwrap_or(wish.weight);
    wish.floor_mib = number("floor").map(MiB);
    wish.squeeze = attribute(mark, "squeeze").as_deref() != Some("no");
    wish.trust = attribute(mark, "trust");
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = tag.attributes().flatten().find(|attribute| attribute.key.0 == name)?;
    Some(attribute.value.to_string())
}

/// libvirt's units; without one it means KiB.
fn bytes_of(unit: Option<&str>) -> u64 {
    match unit {
        Some("b" | "bytes") => 1,
        Some("KB") => 1_000,
        Some("MB") => 1_000_000,
        Some("GB") => 1_000_000_000,
        Some("M" | "MiB") => 1 << 20,
        Some("G" | "GiB") => 1 << 30,
        Some("T" | "TiB") => 1 << 40,
        Some(_) | None => 1 << 10,
    }
}
