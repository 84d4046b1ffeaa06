//! Versions of single things: what ETag, If-None-Match and If-Match go by.
//!
//! A tag has two parts, `"settled.whole"`. If-None-Match compares all of it, so that a caller who has an answer has the
//! very same. If-Match compares the first part alone, which leaves out what changes by itself all the time: nobody could
//! remove a host otherwise without its CPU use having changed meanwhile.

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256};
use roost_aggregator_core::Grid;
use roost_aggregator_core::call::{CallError, CallErrorCode};
use roost_protocol::{Stamp, Time};
use roost_registry::Schema;
use serde_json::Value;

use super::problem::Problem;
use crate::handle::Condition;

/// Bytes of each part: two versions of one thing are taken for each other once in 2^64.
const BYTES: usize = 8;
/// Tags looked at in one header.
const TAGS: usize = 20;

/// The version of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    settled: String,
    whole: String,
}

impl Version {
    /// Of a thing as it is shown. `unseen`: what makes it another one without being shown.
    pub(crate) fn of(schema: &str, value: &Value, unseen: &str) -> Self {
        let properties = roost_registry::schema(schema).map_or(&[][..], |Schema { properties, .. }| properties);
        let sum = |restless: bool| {
            let mut sum = Context::new(&SHA256);
            sum.update(unseen.as_bytes());
            for property in properties.iter().filter(|property| restless || !property.restless) {
                sum.update(format!("\0{}={}", property.name, value[property.name]).as_bytes());
            }
            HEXLOWER.encode(&sum.finish().as_ref()[..BYTES])
        };
        Self { settled: sum(false), whole: sum(true) }
    }

    /// As it stands in ETag.
    pub(crate) fn etag(&self) -> String {
        format!("\"{}.{}\"", self.settled, self.whole)
    }
}

/// What a caller's header says about versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    /// `*`: whichever, as long as there is one.
    Any,
    These(Vec<Tag>),
}

/// One tag of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    weak: bool,
    text: String,
}

impl Tags {
    /// If-Match, where there is one.
    pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        Self::read(headers, IF_MATCH)
    }

    /// If-None-Match, where there is one.
    pub(crate) fn if_none_match(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        Self::read(headers, IF_NONE_MATCH)
    }

    fn read(headers: &HeaderMap, name: HeaderName) -> Result<Option<Self>, Problem> {
        if !headers.contains_key(&name) {
            return Ok(None);
        }
        let wrong = || {
            Problem::new("bad_request", format!("{name} is neither * nor a list of ETags."))
                .advice("Send what the ETag header said, with its quotation marks.")
        };
        let lines = headers.get_all(&name).iter().map(|line| line.to_str().ok());
        let lines = lines.collect::<Option<Vec<&str>>>().ok_or_else(wrong)?.join(",");
        if lines.trim() == "*" {
            return Ok(Some(Tags::Any));
        }
        // Our own tags have no comma in them; others never match, wherever they are cut.
        let tags = lines.split(',').map(str::trim).filter(|tag| !tag.is_empty());
        let tags: Vec<Tag> = tags.take(TAGS + 1).map(tag).collect::<Option<_>>().ok_or_else(wrong)?;
        if tags.is_empty() || tags.len() > TAGS { Err(wrong()) } else { Ok(Some(Tags::These(tags))) }
    }

    /// If-Match: a weak tag never holds (RFC 9110, 13.1.1).
    pub(crate) fn hold(&self, version: &Version) -> bool {
        match self {
            Tags::Any => true,
            Tags::These(tags) => {
                let settled = |tag: &Tag| tag.text.split('.').next() == Some(version.settled.as_str());
                tags.iter().any(|tag| !tag.weak && settled(tag))
            }
        }
    }

    /// If-None-Match: the caller has this version.
    pub(crate) fn have(&self, version: &Version) -> bool {
        match self {
            Tags::Any => true,
            Tags::These(tags) => {
                let same = |tag: &Tag| tag.text.split_once('.') == Some((&version.settled, &version.whole));
                tags.iter().any(same)
            }
        }
    }

    /// Holds or not at the moment of the change. A thing that is gone is left to the change itself to tell.
    pub(crate) fn condition(
        self,
        version: impl FnOnce(&Grid, Time, Stamp) -> Option<Version> + Send + 'static,
    ) -> Condition {
        Box::new(move |grid, now, wall| match version(grid, now, wall) {
            Some(version) if !self.hold(&version) => Err(changed()),
            Some(_) | None => Ok(()),
        })
    }
}

/// The answer to an If-Match that does not hold.
pub(crate) fn changed() -> CallError {
    let text = "It is not any more what If-Match says: it was changed meanwhile, and nothing was done. Read it again, \
                look at what is different, and send its new ETag.";
    CallError { code: CallErrorCode::Changed, text: text.to_owned() }
}

fn tag(text: &str) -> Option<Tag> {
    let (weak, text) = text.strip_prefix("W/").map_or((false, text), |text| (true, text));
    let text = text.strip_prefix('"')?.strip_suffix('"')?;
    Some(Tag { weak, text: text.to_owned() })
}

#[cfg(test)]
mod test {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn tags(text: &str) -> Result<Tags, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, HeaderValue::from_str(text).unwrap());
        Tags::if_match(&headers).map(Option::unwrap)
    }

    #[test]
    fn if_match_looks_past_samples_and_if_none_match_does_not() {
        let guest = |state: &str, cpu: f64| Version::of("guest", &json!({"state": state, "cpu_percent": cpu}), "");
        let (seen, busier, stopped) = (guest("running", 1.0), guest("running", 2.0), guest("off", 1.0));
        let sent = tags(&seen.etag()).unwrap();
        assert_eq!((sent.hold(&seen), sent.hold(&busier), sent.hold(&stopped)), (true, true, false));
        assert_eq!((sent.have(&seen), sent.have(&busier), sent.have(&stopped)), (true, false, false));
        let weak = tags(&format!("\"x\", W/{}", seen.etag())).unwrap();
        assert_eq!((weak.hold(&seen), weak.have(&seen)), (false, true));
        assert_eq!((Tags::Any.hold(&stopped), Tags::Any.have(&stopped)), (true, true));
        assert_ne!(Version::of("user", &json!({}), "one hash"), Version::of("user", &json!({}), "another"));
    }

    #[test]
    fn a_header_that_is_no_list_of_tags_is_refused() {
        let many = vec!["\"x\""; TAGS + 1].join(",");
        for text in ["x", "\"x", "W/x", ",", "*, \"x\"", many.as_str()] {
            assert!(tags(text).is_err(), "{text}");
        }
        assert!(tags("\"a\" , W/\"b\"").is_ok());
    }
}
