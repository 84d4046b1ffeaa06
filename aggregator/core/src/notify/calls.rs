//! What admins ask for about telling: notifiers, silences, acknowledgements. All of it is intent.

use roost_protocol::{Millis, Stamp};

use super::{ACKNOWLEDGED, Acknowledgement, MailTls, NOTE, NOTIFIERS, Notifier, SILENCES, Silence, Way};
use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::{error, within};
use crate::event::Action;
use crate::grid::{Grid, Now};
use crate::history::Line;
use crate::intent::IntentChange;

/// Characters of a notifier's name.
const NAME: usize = 64;
/// Addresses of one mail.
const RECIPIENTS: usize = 50;
/// Characters of a server, a URL, an address.
const PLACE: usize = 1_000;
/// Bytes of certificates: some five of them; all notifiers are part of the grid document.
const CERTIFICATES: usize = 8 << 10;
/// Characters of a user of SNMPv3 (RFC 3414, 2.4), and the fewest of its password (RFC 3414, 11.2).
const USER: usize = 32;
const PASSWORD: usize = 8;
/// Bytes of a secret.
const SECRET: usize = 1_000;
/// Longest time that changes are gathered.
const GATHER: Millis = Millis::seconds(24 * 3_600);
/// Longest silence: what is longer is a rule, not a silence.
const LONGEST: Millis = Millis::seconds(366 * 24 * 3_600);
/// Ended silences are shown this long.
const ENDED: Millis = Millis::seconds(24 * 3_600);

impl Notifier {
    /// Why it can't be so.
    pub fn check(&self) -> Result<(), String> {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.len() > NAME || !self.name.bytes().all(letters) {
            return Err(format!("the name must have 1 to {NAME} letters a-z, digits, dots, dashes or underscores"));
        }
        if self.gather > GATHER {
            return Err(format!("gather_s must be at most {}", GATHER.0 / 1_000));
        }
        if self.ca.as_ref().is_some_and(|ca| ca.len() > CERTIFICATES || !ca.contains("BEGIN CERTIFICATE")) {
            return Err(format!("ca must be certificates as PEM, at most {CERTIFICATES} bytes"));
        }
        if self.secret.as_ref().is_some_and(|secret| secret.0.len() > SECRET) {
            return Err(format!("the secret must have at most {SECRET} bytes"));
        }
        match &self.way {
            Way::Mail(mail) => {
                server(&mail.server)?;
                if mail.to.is_empty() || mail.to.len() > RECIPIENTS {
                    return Err(format!("to must have 1 to {RECIPIENTS} addresses"));
                }
                let all = mail.to.iter().chain([&mail.from]);
                all.into_iter().try_for_each(|address| self::address(address))?;
                if mail.tls == MailTls::Plain && self.secret.is_some() {
                    return Err("a password must not travel in plain text: choose starttls or tls".into());
                }
                match (&mail.user, &self.secret) {
                    (Some(user), _) if !plain(user) => Err("the user must be one line".into()),
                    (Some(_), None) => Err("a user needs a secret, his password".into()),
                    (None, Some(_)) => Err("a password needs a user".into()),
                    (Some(_), Some(_)) | (None, None) => Ok(()),
                }
            }
            Way::Webhook(webhook) => {
                let known = ["https://", "http://"].iter().any(|scheme| webhook.url.starts_with(scheme));
                if known && plain(&webhook.url) { Ok(()) } else { Err("url must be https://... or http://...".into()) }
            }
            Way::Syslog(syslog) => {
                if self.secret.is_some() {
                    return Err("syslog knows no secret".into());
                }
                server(&syslog.server)
            }
            Way::File if self.secret.is_some() => Err("a file knows no secret".into()),
            Way::File => Ok(()),
            Way::Snmp(snmp) => {
                server(&snmp.server)?;
                let secret = self.secret.as_ref().map(|secret| secret.0.as_str());
                match (&snmp.user, secret) {
                    (Some(user), _) if !plain(user) || user.len() > USER => {
                        Err(format!("the user must have 1 to {USER} characters and no blanks"))
                    }
                    (Some(_), Some(secret)) if secret.len() >= PASSWORD => Ok(()),
                    (Some(_), _) => {
                        Err(format!("a user needs a secret of {PASSWORD} characters or more, which SNMPv3 demands"))
                    }
                    (None, Some(community)) if !plain(community) => Err("a community has no blanks".into()),
                    (None, Some(_) | None) => Ok(()),
                }
            }
        }
    }
}

impl Way {
    /// Who gets the secret: another one must not get it by a change of the address alone.
    fn receiver(&self) -> (&'static str, &str, Option<&str>) {
        match self {
            Way::Mail(mail) => ("mail", &mail.server, mail.user.as_deref()),
            Way::Webhook(webhook) => ("webhook", &webhook.url, None),
            Way::Syslog(syslog) => ("syslog", &syslog.server, None),
            Way::Snmp(snmp) => ("snmp", &snmp.server, snmp.user.as_deref()),
            Way::File => ("file", "", None),
        }
    }
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= PLACE && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn server(text: &str) -> Result<(), String> {
    let port = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
    match port {
        Some((name, port)) if plain(text) && !name.is_empty() && port > 0 => Ok(()),
        Some(_) | None => Err("server must be NAME:PORT, for example mail.example.org:587".into()),
    }
}

fn address(text: &str) -> Result<(), String> {
    let parts = text.rsplit_once('@').is_some_and(|(user, at)| !user.is_empty() && !at.is_empty());
    if parts && plain(text) { Ok(()) } else { Err(format!("{text:?} is no mail address: give NAME@DOMAIN")) }
}

impl Grid {
    pub(crate) fn put_notifier(
        &mut self,
        now: Now,
        by: &str,
        mut notifier: Box<Notifier>,
        create: bool,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let name = notifier.name.clone();
        let before = self.intent.telling.notifiers.get(&name);
        match (create, before) {
            (true, Some(_)) => {
                let text = format!("there is a notifier {name:?} already; choose another name, or replace it");
                return Err(error(CallErrorCode::AlreadyExists, text));
            }
            (false, None) => return Err(error(CallErrorCode::NotFound, "no such notifier")),
            (true, None) => within(self.intent.telling.notifiers.len(), NOTIFIERS, "notifiers")?,
            (false, Some(before)) => {
                let same = before.way.receiver() == notifier.way.receiver();
                if notifier.secret.is_none() && before.secret.is_some() {
                    if !same {
                        let text = "its receiver is another one now: give the secret again, or an empty one for none";
                        return Err(error(CallErrorCode::Invalid, text));
                    }
                    notifier.secret.clone_from(&before.secret);
                }
                if !same {
                    self.post.forget(&name);
                }
            }
        }
        notifier.secret = notifier.secret.filter(|secret| !secret.0.is_empty());
        notifier.check().map_err(|why| error(CallErrorCode::Invalid, why))?;
        self.change_intent(vec![IntentChange::Notifier { name: name.clone(), record: Some(notifier) }], actions);
        let text = format!("notifier {name} was {} by {by}", if create { "made" } else { "changed" });
        self.publish(now, Line::info("notifier.changed", text).user(by), actions);
        Ok(Done::Nothing)
    }

    pub(crate) fn delete_notifier(&mut self, now: Now, by: &str, name: &str, actions: &mut Vec<Action>) -> Reply {
        if !self.intent.telling.notifiers.contains_key(name) {
            return Err(error(CallErrorCode::NotFound, "no such notifier"));
        }
        self.change_intent(vec![IntentChange::Notifier { name: name.into(), record: None }], actions);
        let text = format!("notifier {name} was deleted by {by}");
        self.publish(now, Line::warning("notifier.deleted", text).user(by), actions);
        Ok(Done::Nothing)
    }

    pub(crate) fn put_silence(&mut self, now: Now, id: String, silence: Silence, actions: &mut Vec<Action>) -> Reply {
        note(&silence.note)?;
        if silence.until <= now.wall || silence.until.0 - now.wall.0 > LONGEST.0 {
            let days = LONGEST.0 / 86_400_000;
            return Err(error(CallErrorCode::Invalid, format!("a silence ends within {days} days")));
        }
        let long_over = |silence: &Silence| silence.until.0.saturating_add(ENDED.0) < now.wall.0;
        let silences = &self.intent.telling.silences;
        let over: Vec<String> = silences.iter().filter(|(_, it)| long_over(it)).map(|(id, _)| id.clone()).collect();
        within(silences.len() - over.len(), SILENCES, "silences")?;
        let about = match (&silence.code, silence.host, silence.guest) {
            (None, None, None) => "all alarms".to_owned(),
            (code, host, guest) => {
                let code = code.as_ref().map_or_else(|| "alarms".to_owned(), |code| format!("{code} alarms"));
                let host = host.map_or_else(String::new, |host| format!(" of host {}", self.host_name(host)));
                let guest = guest.map_or_else(String::new, |guest| format!(" of guest {}", self.guest_name(guest)));
                format!("{code}{guest}{host}")
            }
        };
        let text = format!("{about} silenced by {}", silence.by);
        let line = Line::warning("alarm.silenced", text).user(&silence.by);
        let gone = over.into_iter().map(|id| IntentChange::Silence { id, record: None });
        let changes = gone.chain([IntentChange::Silence { id, record: Some(silence) }]).collect();
        self.change_intent(changes, actions);
        self.publish(now, line, actions);
        Ok(Done::Nothing)
    }

    pub(crate) fn delete_silence(&mut self, now: Now, by: &str, id: &str, actions: &mut Vec<Action>) -> Reply {
        if !self.intent.telling.silences.contains_key(id) {
            return Err(error(CallErrorCode::NotFound, "no such silence"));
        }
        self.change_intent(vec![IntentChange::Silence { id: id.into(), record: None }], actions);
        self.publish(now, Line::info("alarm.unsilenced", format!("a silence was ended by {by}")).user(by), actions);
        Ok(Done::Nothing)
    }

    /// `words`: none: it is taken back.
    pub(crate) fn acknowledge(
        &mut self,
        now: Now,
        by: &str,
        id: &str,
        words: Option<String>,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let found = self.standing().find(|alarm| alarm.key.fingerprint() == id);
        let Some(alarm) = found.cloned() else {
            return Err(error(CallErrorCode::NotFound, "no such alarm stands; it may be over"));
        };
        let mut changes = self.spent_acknowledgements();
        let said = match words {
            Some(words) => {
                note(&words)?;
                within(self.intent.telling.acknowledged.len() - changes.len(), ACKNOWLEDGED, "acknowledged alarms")?;
                let (by, at, since) = (by.to_owned(), now.wall, alarm.since);
                let record = Some(Acknowledgement { by, at, note: words, since });
                changes.push(IntentChange::Acknowledged { id: id.into(), record });
                "is looked after by"
            }
            None => {
                changes.push(IntentChange::Acknowledged { id: id.into(), record: None });
                "is not looked after any more, says"
            }
        };
        self.change_intent(changes, actions);
        let item = super::Item { alarm, cleared: None };
        let line = Line::info("alarm.acknowledged", format!("alarm \"{}\" {said} {by}", item.what())).user(by);
        let line = item.alarm.key.host.into_iter().fold(line, Line::host);
        self.publish(now, item.alarm.key.guest.into_iter().fold(line, Line::guest), actions);
        Ok(Done::Nothing)
    }

    /// Those of alarms that are over, as far as is known; only looked for where one is added.
    fn spent_acknowledgements(&self) -> Vec<IntentChange> {
        let stands =
            |id: &str, since: Stamp| self.standing().any(|alarm| alarm.since == since && alarm.key.fingerprint() == id);
        let full = self.intent.telling.acknowledged.len() >= ACKNOWLEDGED / 2;
        let all = self.intent.telling.acknowledged.iter().filter(|_| full);
        let spent = all.filter(|(id, it)| !stands(id, it.since));
        spent.map(|(id, _)| IntentChange::Acknowledged { id: id.clone(), record: None }).collect()
    }
}

fn note(text: &str) -> Result<(), CallError> {
    if text.chars().count() > NOTE || text.chars().any(char::is_control) {
        return Err(error(CallErrorCode::Invalid, format!("the note must be one line of at most {NOTE} characters")));
    }
    Ok(())
}
