//! Links to one list: what a spreadsheet keeps in a file and asks with, again and again, without knowing a password. A link
//! is kept nowhere. It is signed with what proves its maker, so it ends with the maker's password or API token.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use roost_aggregator_core::Intent;
use roost_protocol::{Millis, Stamp};

use super::{Auth, Caller, Via, end};
use crate::clock;
use crate::handle::Away;

/// What it begins with, so that scanners find a leaked one.
const LINK: &str = "rsl_";
/// Life of a link.
const TTL: Millis = Millis::seconds(30 * 24 * 3_600);
/// Longest link looked at.
const MOST: usize = 1_024;

/// Who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Maker {
    User(String),
    ApiToken(String),
}

impl Maker {
    fn of(caller: &Caller) -> Option<Self> {
        match &caller.via {
            Via::Session(_) => Some(Maker::User(caller.user.clone())),
            Via::ApiToken(id) => Some(Maker::ApiToken(id.clone())),
            Via::Nobody | Via::Link => None,
        }
    }

    fn word(&self) -> String {
        match self {
            Maker::User(name) => format!("u{}", URL_SAFE_NO_PAD.encode(name)),
            Maker::ApiToken(id) => format!("t{}", URL_SAFE_NO_PAD.encode(id)),
        }
    }

    fn parse(word: &str) -> Option<Self> {
        let name = |text: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        match word.split_at_checked(1)? {
            ("u", rest) => Some(Maker::User(name(rest)?)),
            ("t", rest) => Some(Maker::ApiToken(name(rest)?)),
            _ => None,
        }
    }

    /// Its user, and the hash that only this grid has.
    fn proof(&self, intent: &Intent, wall: Stamp) -> Option<(String, Vec<u8>)> {
        match self {
            Maker::User(name) => {
                // Whatever is signed with nothing anybody could sign.
                let user = intent.users.get(name).filter(|user| !user.password_hash.is_empty())?;
                Some((name.clone(), user.password_hash.as_bytes().to_vec()))
            }
            Maker::ApiToken(id) => {
                let token = intent.api_tokens.get(id).filter(|token| wall < token.expires)?;
                intent.users.contains_key(&token.user).then(|| (token.user.clone(), token.hash.to_vec()))
            }
        }
    }
}

/// What is signed. `what` has no line break.
fn text(expires_s: u64, maker: &Maker, what: &str) -> String {
    format!("roost link 1\n{expires_s:x}\n{}\n{what}", maker.word())
}

impl Auth {
    /// A link to `what` for this caller; none: the caller can make none.
    pub(crate) async fn link(&self, caller: &Caller, what: &str) -> Result<Option<String>, Away> {
        let Some(maker) = Maker::of(caller) else { return Ok(None) };
        let asked = maker.clone();
        let proof = self.handle.read(move |grid, _, wall| asked.proof(grid.intent(), wall)).await?;
        let Some((_, proof)) = proof else { return Ok(None) };
        let expires_s = end(clock::wall(), TTL).0 / 1_000;
        let tag = sign(&Key::new(HMAC_SHA256, &proof), text(expires_s, &maker, what).as_bytes());
        Ok(Some(format!("{LINK}{expires_s:x}.{}.{}", maker.word(), URL_SAFE_NO_PAD.encode(tag.as_ref()))))
    }

    /// Who made this link to `what`, while it is good.
    pub(crate) async fn by_link(&self, link: &str, what: &str, address: IpAddr) -> Result<Option<Caller>, Away> {
        let parts = link.strip_prefix(LINK).filter(|_| link.len() <= MOST).and_then(|rest| {
            let (expires, rest) = rest.split_once('.')?;
            let (maker, tag) = rest.split_once('.')?;
            Some((u64::from_str_radix(expires, 16).ok()?, Maker::parse(maker)?, URL_SAFE_NO_PAD.decode(tag).ok()?))
        });
        let Some((expires_s, maker, tag)) = parts else { return Ok(None) };
        let asked = maker.clone();
        let proof = self.handle.read(move |grid, _, wall| {
            (wall.0 / 1_000 < expires_s).then(|| asked.proof(grid.intent(), wall)).flatten()
        });
        let Some((user, proof)) = proof.await? else { return Ok(None) };
        let right = verify(&Key::new(HMAC_SHA256, &proof), text(expires_s, &maker, what).as_bytes(), &tag).is_ok();
        Ok(right.then_some(Caller { user, via: Via::Link, address }))
    }
}

#[cfg(test)]
mod test {
    use roost_aggregator_core::intent::UserRecord;

    use super::*;

    #[test]
    fn a_maker_survives_its_word() {
        for maker in [Maker::User("jörg.a-b".into()), Maker::ApiToken("0123456789abcdef".into())] {
            assert_eq!(Maker::parse(&maker.word()), Some(maker));
        }
        for wrong in ["", "x", "é", "u%", "tYQ=="] {
            assert_eq!(Maker::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nobody_without_a_password_makes_links() {
        let user = |hash: &str| UserRecord { password_hash: hash.into(), created: Stamp(0), full_name: String::new() };
        let users = [("ann".to_owned(), user("$argon2id$")), ("bob".to_owned(), user(""))].into();
        let intent = Intent { users, ..Intent::default() };
        let proof = |name: &str| Maker::User(name.into()).proof(&intent, Stamp(0));
        assert_eq!(proof("ann"), Some(("ann".into(), b"$argon2id$".to_vec())));
        assert_eq!((proof("bob"), proof("eve")), (None, None));
    }
}
