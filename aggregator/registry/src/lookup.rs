//! Finding an operation: by name, by noun and verb, by method and path.

use std::collections::BTreeSet;

use crate::{Http, Operation, table};

/// A path that fits an operation, with the values of its `{…}` segments in order, as they stood (still percent-encoded).
#[derive(Clone, Debug)]
pub struct Matched<'a> {
    pub operation: &'static Operation,
    pub values: Vec<(&'static str, &'a str)>,
}

/// All operations, grouped by noun.
pub fn operations() -> &'static [Operation] {
    table::ALL.as_slice()
}

/// The operation of this name.
pub fn find(name: &str) -> Option<&'static Operation> {
    operations().iter().find(|operation| operation.name == name)
}

/// The operation behind `roost <noun> <verb>`.
pub fn find_cli(noun: &str, verb: &str) -> Option<&'static Operation> {
    operations().iter().find(|operation| operation.cli.is_some_and(|cli| cli.noun == noun && cli.verb == verb))
}

/// Nouns of the command, in order of the alphabet.
pub fn nouns() -> BTreeSet<&'static str> {
    operations().iter().filter_map(|operation| operation.cli).map(|cli| cli.noun).collect()
}

/// What can be done with a noun, in the table's order.
pub fn verbs(noun: &str) -> impl Iterator<Item = (&'static str, &'static Operation)> {
    operations().iter().filter_map(move |operation| {
        let cli = operation.cli.filter(|cli| cli.noun == noun)?;
        Some((cli.verb, operation))
    })
}

/// The operation for a method and a path below [`crate::BASE`]. Fixed segments win over `{…}`.
pub fn route(method: Http, path: &str) -> Option<Matched<'_>> {
    let fits = operations().iter().filter(|operation| operation.method == method).filter_map(|operation| {
        let values = values_of(operation.path, path)?;
        Some(Matched { operation, values })
    });
    fits.min_by_key(|matched| matched.values.len())
}

fn values_of<'a>(template: &'static str, path: &'a str) -> Option<Vec<(&'static str, &'a str)>> {
    let wanted: Vec<&'static str> = template.split('/').collect();
    let given: Vec<&'a str> = path.split('/').collect();
    if wanted.len() != given.len() {
        return None;
    }
    let mut values = Vec::new();
    for (want, have) in wanted.into_iter().zip(given) {
        match parameter(want) {
            Some(_) if have.is_empty() => return None,
            Some(name) => values.push((name, have)),
            None if want == have => {}
            None => return None,
        }
    }
    Some(values)
}

/// The name in a `{name}` segment.
pub(crate) fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_path_finds_its_operation_and_its_values() {
        let start = route(Http::Post, "/guests/web%201/actions/start").unwrap();
        assert_eq!((start.operation.name, start.values), ("guest.start", vec![("ref", "web%201")]));
        assert_eq!(route(Http::Get, "/guests").unwrap().operation.name, "guest.list");
        assert_eq!(route(Http::Get, "/events/stream").unwrap().operation.name, "event.stream");
        for (method, path) in
            [(Http::Get, "/guests/"), (Http::Put, "/guests"), (Http::Get, "/nothing"), (Http::Get, "")]
        {
            assert!(route(method, path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_noun_and_verb_find_their_operation() {
        assert_eq!(find_cli("guest", "start").unwrap().name, "guest.start");
        assert!(find_cli("guest", "fly").is_none());
        assert!(nouns().contains("join-token"));
        assert!(verbs("host").any(|(verb, _)| verb == "remove"));
    }
}
