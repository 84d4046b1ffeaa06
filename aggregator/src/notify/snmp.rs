//! SNMP notifications of ROOST-MIB, one an alarm: SNMPv2c traps, of whose arrival nothing is known, or SNMPv3 informs,
//! authenticated by SHA-256, encrypted by AES and acknowledged.

use std::time::Duration;

use async_snmp::v3::{AuthProtocol, PrivProtocol};
use async_snmp::{Auth, Client, Oid, Retry, UsmConfig, Value, VarBind};
use roost_aggregator_core::notify::{Digest, Item, Notifier, Snmp};
use roost_snmp::mib::note::{self, Kind, Notice, Severity};

use super::{Courier, Undelivered};

/// What receivers take where nothing else was agreed.
const COMMUNITY: &str = "public";
/// A receiver answers from memory; after this it is asked once more.
const ANSWER: Duration = Duration::from_secs(5);
const RETRIES: u32 = 2;

pub(super) async fn send(
    courier: &Courier,
    notifier: &Notifier,
    way: &Snmp,
    digest: &Digest,
) -> Result<(), Undelivered> {
    let wrap = |error| Undelivered::Snmp(way.server.clone(), error);
    let secret = notifier.secret.as_ref().map_or("", |secret| secret.0.as_str());
    let retry = Retry::fixed(RETRIES, Duration::ZERO).unwrap_or_else(|_| Retry::none());
    let client = Client::builder(way.server.clone(), auth(way, secret)?);
    let client = client.request_timeout(ANSWER).retry(retry).connect().await.map_err(wrap)?;
    for item in &digest.items {
        let binds = binds(item);
        let Some((kind, rest)) = binds.split_first() else { continue };
        let roost_snmp::Value::Oid(kind) = &kind.value else { continue };
        let rest = rest.iter().map(|bind| VarBind::new(Oid::from_slice(&bind.oid), value(&bind.value))).collect();
        let uptime = ticks(courier);
        let kind = Oid::from_slice(kind);
        if way.user.is_some() {
            client.send_inform(&kind, uptime, rest).await.map_err(wrap)?;
        } else {
            client.send_trap(&kind, uptime, rest).await.map_err(wrap)?;
        }
    }
    Ok(())
}

fn auth(way: &Snmp, secret: &str) -> Result<Auth, Undelivered> {
    let Some(user) = &way.user else {
        let community = if secret.is_empty() { COMMUNITY } else { secret };
        return Ok(Auth::v2c(community.to_owned()));
    };
    let user = UsmConfig::new(user.clone());
    Ok(user.auth_priv(AuthProtocol::Sha256, secret, PrivProtocol::Aes128, secret)?.into())
}

/// The notification, named first, as ROOST-MIB has it. Of a guest the aggregator knows no vmIndex: its instance is 0.
pub(super) fn binds(item: &Item) -> Vec<roost_snmp::VarBind> {
    let (alarm, raised) = (&item.alarm, item.cleared.is_none());
    let over = if raised { "" } else { "over: " };
    note::notice(&Notice {
        kind: Kind::of(&alarm.key.code, raised),
        host: alarm.host_name.as_deref().unwrap_or_default(),
        severity: if raised { item.severity().into() } else { Severity::Info },
        text: &format!("{over}{}: {}", item.what(), item.why()),
        event: &alarm.key.fingerprint(),
        code: &alarm.key.code,
        guest: alarm.key.guest.map(|guest| (0, guest, alarm.guest_name.as_deref().unwrap_or_default())),
        detail: None,
    })
}

fn value(value: &roost_snmp::Value) -> Value {
    use roost_snmp::Value as Ours;
    match value {
        Ours::Integer(number) => Value::Integer(*number),
        Ours::Octets(octets) => Value::OctetString(octets.clone().into()),
        Ours::Oid(oid) => Value::ObjectIdentifier(Oid::from_slice(oid)),
        Ours::IpAddress(address) => Value::IpAddress(*address),
        Ours::Counter32(number) => Value::Counter32(*number),
        Ours::Gauge32(number) => Value::Gauge32(*number),
        Ours::TimeTicks(number) => Value::TimeTicks(*number),
        Ours::Opaque(octets) => Value::Opaque(octets.clone().into()),
        Ours::Counter64(number) => Value::Counter64(*number),
        Ours::Null | Ours::NoSuchObject | Ours::NoSuchInstance | Ours::EndOfMibView => Value::Null,
    }
}

/// Hundredths of a second since the aggregator's start; they begin again at zero (RFC 2578 §7.1.8).
fn ticks(courier: &Courier) -> u32 {
    let hundredths = courier.began.elapsed().as_millis() / 10 % (1 << 32);
    u32::try_from(hundredths).unwrap_or_default()
}
