//! What travels, word for word. That it arrives is shown with real receivers, in `tests`.

use roost_aggregator_core::notify::{Item, Key, Standing};
use roost_protocol::{GuestId, HostId, Stamp};
use serde_json::json;

use super::*;

fn item(code: &str, cleared: Option<u64>) -> Item {
    let key = Key { code: code.into(), host: Some(HostId::from_u128(1)), guest: Some(GuestId::from_u128(2)) };
    let alarm = Standing {
        key,
        since: Stamp(1_700_000_000_000),
        text: "it crashed \"again\"\nand again".into(),
        host_name: Some("h1".into()),
        guest_name: Some("we]b".into()),
    };
    Item { alarm, cleared: cleared.map(Stamp) }
}

#[test]
fn a_webhook_says_what_alertmanager_would_say() {
    let digest =
        Digest { items: vec![item("guest-down", None), item("disk-low", Some(1_700_000_060_000))], test: false };
    let body = alertmanager::body("ops", "https://grid:8443", &digest);
    assert_eq!(body["status"], "firing");
    assert_eq!(body["commonLabels"], json!({"guest": "we]b", "host": "h1", "source": "roost"}));
    let [down, disk] = [&body["alerts"][0], &body["alerts"][1]];
    assert_eq!(down["labels"]["alertname"], "guest-down");
    assert_eq!(
        (&down["startsAt"], &down["endsAt"]),
        (&json!("2023-11-14T22:13:20.000Z"), &json!("0001-01-01T00:00:00Z"))
    );
    assert_eq!((&disk["status"], &disk["endsAt"]), (&json!("resolved"), &json!("2023-11-14T22:14:20.000Z")));
    assert_eq!(down["fingerprint"].as_str().map(str::len), Some(16));
    assert_ne!(down["fingerprint"], disk["fingerprint"]);
    let over = Digest { items: vec![item("guest-down", Some(1))], test: false };
    assert_eq!(alertmanager::body("ops", "", &over)["status"], "resolved");
}

#[test]
fn a_signature_is_what_any_other_program_computes() {
    // printf '%s' '5.{}' | openssl dgst -sha256 -hmac key
    let expected = "t=5,v1=9be615aec64f0d044b5ad6854ab1d893ec88617fb728d2149dcd3a3428e8c45d";
    assert_eq!(webhook::signature("key", 5, "{}"), expected);
}

#[test]
fn a_syslog_line_is_rfc_5424_and_no_name_breaks_out_of_it() {
    let line = |item: &Item| String::from_utf8(syslog::line(item, "2023-11-14T22:13:20.000Z", "grid 1")).unwrap();
    let down = line(&item("guest-down", None));
    assert!(down.starts_with("<27>1 2023-11-14T22:13:20.000Z grid1 roost "), "{down}");
    assert!(down.contains(" guest-down [roost@32473 id=\""), "{down}");
    assert!(down.contains(" guest=\"we\\]b\"] \u{feff}guest we]b on host h1 is down"), "{down}");
    assert!(!down.contains('\n'), "{down}");
    assert!(line(&item("guest-down", Some(5))).starts_with("<29>1 "));
    let mut long = item("guest-down", None);
    long.alarm.text = "ä".repeat(5_000);
    assert!(line(&long).len() <= 2_048);
}

#[test]
fn an_snmp_notification_names_what_it_is_and_the_alarm_to_look_up() {
    let told = |item: &Item| {
        let binds = snmp::binds(item);
        let texts: Vec<String> = binds.iter().map(|bind| format!("{} {:?}", bind.oid, bind.value)).collect();
        let kind = if let roost_snmp::Value::Oid(oid) = &binds[0].value { oid.last().copied() } else { None };
        let octets = binds.iter().filter_map(|bind| {
            let octets = if let roost_snmp::Value::Octets(octets) = &bind.value { Some(octets) } else { None };
            Some(String::from_utf8_lossy(octets?).into_owned())
        });
        (kind, octets.collect::<Vec<_>>().join("|"), texts)
    };
    let (kind, octets, texts) = told(&item("guest-down", None));
    assert_eq!(kind, Some(17), "roostAlarmRaised: {texts:?}");
    let id = item("guest-down", None).alarm.key.fingerprint();
    assert!(octets.starts_with("guest-down|h1|guest we]b on host h1 is down though it should run: it crashed"));
    assert!(octets.contains(&id) && octets.contains("|we]b|"), "{octets}");
    assert_eq!(told(&item("guest-down", Some(5))).0, Some(18));
    assert_eq!((told(&item("host-down", None)).0, told(&item("host-down", Some(5))).0), (Some(1), Some(2)));
}

#[tokio::test]
async fn nobody_listening_is_an_error_that_says_where() {
    let courier = Courier::new("https://grid:8443".into(), "g".into(), Path::new("/nowhere"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let way = Way::Syslog(roost_aggregator_core::notify::Syslog { server: closed.clone(), tcp: true });
    let notifier = Notifier {
        name: "a".into(),
        way,
        least: roost_protocol::alarm::Severity::Info,
        gather: roost_protocol::Millis(0),
        ca: None,
        secret: None,
    };
    let error = courier.deliver(&notifier, &Digest::trial(Stamp(0))).await.unwrap_err();
    assert!(crate::chain(&error).contains(&format!("connect to {closed}")), "{error:?}");
}

#[tokio::test]
async fn a_file_gets_one_common_base_event_a_line_and_no_name_breaks_out_of_it() {
    let data = tempfile::tempdir().unwrap();
    let courier = Courier::new("https://grid:8443".into(), "0a-0b".into(), data.path());
    let (least, gather) = (roost_protocol::alarm::Severity::Info, roost_protocol::Millis(0));
    let notifier = Notifier { name: "tec".into(), way: Way::File, least, gather, ca: None, secret: None };
    let items =
        vec![item("host-down", None), item("host-down", Some(1_700_000_060_000)), item("no such", Some(u64::MAX))];
    courier.deliver(&notifier, &Digest { items, test: false }).await.unwrap();
    courier.deliver(&notifier, &Digest::trial(Stamp(0))).await.unwrap();
    let text = std::fs::read_to_string(data.path().join(file::place("tec"))).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for line in &lines {
        assert!(line.starts_with("<CommonBaseEvent xmlns=\"http://www.ibm.com/AC/commonbaseevent1_0_1\" "), "{line}");
        let mut reader = quick_xml::Reader::from_str(line);
        while reader.read_event().unwrap() != quick_xml::events::Event::Eof {}
    }
    let id = item("host-down", None).alarm.key.fingerprint();
    for (at, part) in [
        (0, "creationTime=\"2023-11-14T22:13:20.000Z\" extensionName=\"alarm.raised\"".to_owned()),
        (0, format!("globalInstanceId=\"A0A0B{}018BCFE56800R\"", id.to_ascii_uppercase())),
        (0, "msg=\"guest we]b on host h1 is down: it crashed &quot;again&quot;&#10;and again\" severity=\"60\"".into()),
        (0, "availabilityDisposition=\"NOT AVAILABLE\"".into()),
        (1, "creationTime=\"2023-11-14T22:14:20.000Z\" extensionName=\"alarm.cleared\"".into()),
        (1, format!("globalInstanceId=\"A0A0B{}018BCFE56800C\"", id.to_ascii_uppercase())),
        (1, "availabilityDisposition=\"AVAILABLE\"".into()),
        (2, "creationTime=\"9999-12-30".into()),
        (3, "component=\"roost-aggregator\"".into()),
        (3, "extensionName=\"notifier.test\"".into()),
        (3, "severity=\"10\"".into()),
    ] {
        assert!(lines[at].contains(&part), "{part} in {}", lines[at]);
    }
}
