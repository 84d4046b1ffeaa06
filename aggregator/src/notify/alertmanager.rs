//! The body of Alertmanager's webhooks, version 4, so that whatever takes those takes ours.

use std::collections::BTreeMap;

use roost_aggregator_core::notify::{Digest, Item};
use serde_json::{Value, json};

use super::time;

/// Go's zero time: what Alertmanager says where nothing has ended.
const NEVER: &str = "0001-01-01T00:00:00Z";

type Words = BTreeMap<&'static str, String>;

/// `receiver`: the notifier's name. `url`: where the API is.
pub(super) fn body(receiver: &str, url: &str, digest: &Digest) -> Value {
    let firing = digest.items.iter().any(|item| item.cleared.is_none());
    let status = |firing: bool| if firing { "firing" } else { "resolved" };
    let alerts: Vec<Value> = digest
        .items
        .iter()
        .map(|item| {
            let id = item.alarm.key.fingerprint();
            json!({
                "status": status(item.cleared.is_none()),
                "labels": labels(item),
                "annotations": annotations(item),
                "startsAt": time(item.alarm.since),
                "endsAt": item.cleared.map_or_else(|| NEVER.to_owned(), time),
                "generatorURL": format!("{url}/api/v1/alarms/{id}"),
                "fingerprint": id,
            })
        })
        .collect();
    json!({
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "status": status(firing),
        "receiver": receiver,
        "groupLabels": {},
        "commonLabels": common(digest.items.iter().map(labels)),
        "commonAnnotations": common(digest.items.iter().map(annotations)),
        "externalURL": url,
        "alerts": alerts,
    })
}

fn labels(item: &Item) -> Words {
    let alarm = &item.alarm;
    let mut labels = Words::from([
        ("alertname", alarm.key.code.clone()),
        ("severity", item.severity().word().to_owned()),
        ("source", "roost".to_owned()),
    ]);
    labels.extend(alarm.host_name.clone().map(|name| ("host", name)));
    labels.extend(alarm.guest_name.clone().map(|name| ("guest", name)));
    labels
}

fn annotations(item: &Item) -> Words {
    Words::from([("summary", item.what()), ("description", item.why().to_owned()), ("action", item.to_do().to_owned())])
}

/// What all of them say alike.
fn common(mut all: impl Iterator<Item = Words>) -> Words {
    let mut common = all.next().unwrap_or_default();
    for words in all {
        common.retain(|name, word| words.get(name) == Some(word));
    }
    common
}
