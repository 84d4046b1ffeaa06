//! People and programs are told of alarms: by mail, webhook, syslog and SNMP, to receivers that others wrote, and by a file.
//! What our webhook says has the shape of what the real Alertmanager says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, eventually};
use serde_json::{Value, json};

/// A silent host is down after 15 s.
const SOON: Duration = Duration::from_secs(60);
const NAMES: [&str; 8] = ["mail", "hook", "safe", "log", "udp", "trap", "inform", "file"];
/// What rsyslog and snmptrapd write, and how what they took begins.
const LOGS: [(&str, &str); 2] = [("imtcp", "imtcp 1 roost host-down "), ("imudp", "imudp 1 roost host-down ")];
/// roostHostDown and roostHostUp, and the PDUs by which they come.
const HOST_NOTES: &str = ".1.3.6.1.4.1.32473.236.0.";

#[test]
fn real_grid_tells_people_and_programs_of_a_host_that_is_down_and_up_again() {
    grid::story(1, |grid| {
        let folder = receivers(grid)?;
        let address = grid.lab.address(1);
        grid.configure(1, &grid.token("h1")?)?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", SOON)?;
        add(grid, &folder, &address)?;
        for name in NAMES {
            eventually("a test arrives", SOON, || grid.roost(&["notifier", "test", name]).map(drop))?;
        }
        grid.kill(1)?;
        told(grid, &folder, "the host is down", "is down", "firing", "raised")?;
        looked_after(grid)?;
        grid.kill_aggregator()?;
        grid.start_aggregator()?;
        grid.log_in()?;
        grid.start_agent(1)?;
        told(grid, &folder, "it is over", "over: host h1 is down", "resolved", "cleared")?;
        nothing_twice(grid, &folder)?;
        as_common_base_events(grid)?;
        as_alertmanager(&folder, &address)
    });
}

/// Python's aiosmtpd and web servers, rsyslog, snmptrapd, Alertmanager; in the host, so that they end with it.
fn receivers(grid: &Grid) -> Result<PathBuf> {
    let folder = grid.lab.folder().join("told");
    fs::create_dir_all(&folder)?;
    let (address, place) = (grid.lab.address(1), folder.display());
    let line = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=sink \
         -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:{address} \
         -keyout {place}/key.pem -out {place}/cert.pem"
    );
    grid::output(Command::new("sh").args(["-c", &line]))?;
    let rsyslog = format!(
        "global(workDirectory=\"{place}\")\nmodule(load=\"imudp\")\ninput(type=\"imudp\" port=\"15140\")\n\
         module(load=\"imtcp\")\ninput(type=\"imtcp\" port=\"15140\")\n\
         template(name=\"line\" type=\"string\" string=\"%inputname% %protocol-version% %app-name% %msgid% \
         %syslogseverity-text% %structured-data% %msg%\\n\")\n\
         action(type=\"omfile\" file=\"{place}/log\" template=\"line\")\n"
    );
    fs::write(folder.join("rsyslog.conf"), rsyslog)?;
    let traps = "disableAuthorization no\nauthCommunity log hidden-community\nauthUser log mon priv\n\
         createUser mon SHA-256 hidden-password AES\n";
    fs::write(folder.join("snmptrapd.conf"), traps)?;
    let alertmanager = format!(
        "route: {{receiver: sink, group_wait: 0s, group_interval: 1s}}\n\
         receivers: [{{name: sink, webhook_configs: [{{url: 'http://{address}:18080/real'}}]}}]\n"
    );
    fs::write(folder.join("alertmanager.yml"), alertmanager)?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_grid/sink.py");
    let lines = [
        ("sink", format!("exec /usr/bin/python3 {script} {place} {address}")),
        (
            "snmptrapd",
            format!(
                "exec env SNMPCONFPATH={place} SNMP_PERSISTENT_DIR={place}/kept MIBS= snmptrapd -f -C -c {place}/snmptrapd.conf \
                 -Lf {place}/traps -F '%P %v\n' -On udp:{address}:10162"
            ),
        ),
        ("rsyslog", format!("exec rsyslogd -n -f {place}/rsyslog.conf -i {place}/rsyslog.pid")),
        (
            "alertmanager",
            format!(
                "exec prometheus-alertmanager --config.file={place}/alertmanager.yml --storage.path={place}/alerts \
                 --web.listen-address=0.0.0.0:19093 --cluster.listen-address="
            ),
        ),
    ];
    for (name, line) in lines {
        grid.lab.spawn(1, &folder.join(format!("{name}.out")), &["sh", "-c", &line])?;
    }
    Ok(folder)
}

fn add(grid: &Grid, folder: &Path, address: &str) -> Result<()> {
    let mail = json!({
        "name": "mail", "kind": "mail", "server": format!("{address}:2525"), "user": "roost", "gather_s": 1,
        "secret": "hidden-password", "from": "roost@example.org", "to": ["ann@example.org", "bob@example.org"],
        "ca": fs::read_to_string(folder.join("cert.pem"))?,
    });
    let wrong = json!({"name": "wrong", "secret": "a-wrong-one"});
    let hook = json!({
        "name": "hook", "kind": "webhook", "url": format!("http://{address}:18080/ours"), "secret": "hidden-key",
    });
    let safe = json!({
        "name": "safe", "kind": "webhook", "url": format!("https://{address}:18443/safe"), "secret": "hidden-key",
        "ca": fs::read_to_string(folder.join("cert.pem"))?,
    });
    let nms = format!("{address}:10162");
    let trap = json!({"name": "trap", "kind": "snmp", "server": &nms, "secret": "hidden-community"});
    let inform = json!({"name": "inform", "kind": "snmp", "server": &nms, "user": "mon", "secret": "hidden-password"});
    for (name, transport) in [("log", "tcp"), ("udp", "udp")] {
        let server = format!("{address}:15140");
        let to = ["--kind", "syslog", "--server", &server, "--transport", transport];
        grid.roost(&[&["notifier", "create", "--name", name][..], &to].concat())?;
    }
    let file = json!({"name": "file", "kind": "file"});
    for notifier in [&mail, &hook, &safe, &trap, &inform, &file] {
        let made = grid.api.post("/notifiers", notifier)?;
        ensure!(!made.to_string().contains("hidden"), "{made}");
    }
    let mut refused = mail.clone();
    refused.as_object_mut().context("an object")?.extend(wrong.as_object().context("an object")?.clone());
    grid.api.post("/notifiers", &refused)?;
    eventually("a wrong password is told", SOON, || {
        let answer = grid.api.call(Method::POST, "/notifiers/wrong/actions/test", Some(&json!({})))?;
        ensure!(answer.status == 503 && answer.body.to_string().contains("535"), "{answer:?}");
        Ok(())
    })?;
    let shown = grid.roost(&["notifier", "list", "-o", "json"])?;
    ensure!(!shown.contains("hidden") && !shown.contains("a-wrong-one"), "{shown}");
    grid.roost(&["notifier", "delete", "wrong", "--yes"]).map(drop)
}

fn lines(folder: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Each receiver got it.
fn told(grid: &Grid, folder: &Path, what: &str, subject: &str, status: &str, state: &str) -> Result<()> {
    eventually(&format!("mail says: {what}"), SOON, || {
        let mails = lines(folder, "mail");
        let mail = mails.iter().find(|mail| mail["subject"].as_str().is_some_and(|it| it.contains(subject)));
        let mail = mail.with_context(|| format!("{mails:?} {:?}", grid.api.get("/notifiers")))?;
        let all = ["since:", "why:", "to do:", "the host is not heard any more"];
        ensure!(all.iter().all(|part| mail["text"].as_str().is_some_and(|text| text.contains(part))), "{mail}");
        ensure!(mail["tls"] == true && mail["user"] == "roost" && mail["auto"] == "auto-generated", "{mail}");
        ensure!(mail["to"] == json!(["ann@example.org", "bob@example.org"]), "{mail}");
        Ok(())
    })?;
    for (path, receiver) in [("/ours", "hook"), ("/safe", "safe")] {
        eventually(&format!("the webhook {receiver} says: {what}"), SOON, || {
            let hooks = lines(folder, "hook");
            let down =
                |hook: &&Value| hook["path"] == path && hook["body"]["alerts"][0]["labels"]["alertname"] == "host-down";
            let hook = hooks.iter().find(|hook| down(hook) && hook["body"]["status"] == status).context("no such")?;
            ensure!(hook["signed"] == true && hook["body"]["receiver"] == receiver, "{hook}");
            Ok(())
        })?;
    }
    for (input, begins) in LOGS {
        eventually(&format!("syslog by {input} says: {what}"), SOON, || {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            let found =
                log.lines().find(|line| line.contains(&format!("state=\"{state}\"")) && line.starts_with(begins));
            let line = found.with_context(|| log.clone())?;
            ensure!(line.contains("host=\"h1\""), "{line}");
            Ok(())
        })?;
    }
    let number = if state == "raised" { 1 } else { 2 };
    eventually(&format!("snmptrapd was told: {what}"), SOON, || {
        for pdu in ["TRAP2", "INFORM"] {
            let notes = notes(folder, pdu, number);
            let line = notes.first().with_context(|| format!("{pdu}: {:?}", grid.api.get("/notifiers")))?;
            ensure!(line.contains("host h1 is down: the host is not heard any more"), "{line}");
        }
        Ok(())
    })
}

/// What snmptrapd wrote of a notification of ROOST-MIB that came by such a PDU.
fn notes(folder: &Path, pdu: &str, number: u32) -> Vec<String> {
    let text = fs::read_to_string(folder.join("traps")).unwrap_or_default();
    let kind = format!("{HOST_NOTES}{number}");
    let named = |line: &str| line.split_whitespace().any(|word| word == kind);
    text.lines().filter(|line| line.starts_with(pdu) && named(line)).map(str::to_owned).collect()
}

/// Over REST and by the command.
fn looked_after(grid: &Grid) -> Result<()> {
    let alarms = grid.api.get("/alarms")?;
    let down = alarms["items"].as_array().context("items")?.iter().find(|alarm| alarm["code"] == "host-down");
    let id = down.and_then(|down| down["id"].as_str()).with_context(|| alarms.to_string())?;
    grid.roost(&["alarm", "acknowledge", id, "--note", "on my way"])?;
    grid.roost(&["silence", "create", "--for", "1h", "--code", "clock-off"])?;
    let shown = grid.api.get(&format!("/alarms/{id}"))?;
    ensure!(shown["acknowledged_by"] == "admin" && shown["note"] == "on my way", "{shown}");
    let silences = grid.api.get("/silences")?;
    ensure!(silences["items"][0]["holds"] == true && silences["items"][0]["code"] == "clock-off", "{silences}");
    Ok(())
}

/// The aggregator was killed meanwhile, and knew what it had told.
fn nothing_twice(grid: &Grid, folder: &Path) -> Result<()> {
    eventually("nothing is left to be told", SOON, || {
        let all = grid.api.get("/notifiers")?;
        let items = all["items"].as_array().context("items")?;
        ensure!(
            items.len() == NAMES.len() && items.iter().all(|it| it["waiting"] == 0 && it["state"] == "works"),
            "{all}"
        );
        Ok(())
    })?;
    let subjects: Vec<String> = lines(folder, "mail").iter().map(|mail| mail["subject"].to_string()).collect();
    let about = subjects.iter().filter(|subject| subject.contains("host h1 is down")).count();
    ensure!(about == 2, "{subjects:?}");
    for (pdu, number) in [("TRAP2", 1), ("INFORM", 1), ("TRAP2", 2), ("INFORM", 2)] {
        let notes = notes(folder, pdu, number);
        ensure!(notes.len() == 1, "{pdu} {number}: {notes:?}");
    }
    let log = fs::read_to_string(grid.log(0))?;
    ensure!(!log.contains("hidden-"), "a secret in the log");
    Ok(())
}

/// Python's parser takes each line of the file, which the killed aggregator went on with.
fn as_common_base_events(grid: &Grid) -> Result<()> {
    let file = grid.folder.join("aggregator/events/file.xml");
    let script = "import sys, xml.etree.ElementTree as tree\n\
                  for line in open(sys.argv[1]):\n    \
                  event = tree.fromstring(line)\n    \
                  print(event.tag, event.get('extensionName'), event.get('msg'))";
    let told = grid::output(Command::new("/usr/bin/python3").args(["-c", script]).arg(&file))?;
    let tag = "{http://www.ibm.com/AC/commonbaseevent1_0_1}CommonBaseEvent";
    ensure!(told.lines().all(|line| line.starts_with(tag)), "{told}");
    for (kind, begins) in [("alarm.raised", "host h1 is down"), ("alarm.cleared", "over: host h1 is down")] {
        let count = told.lines().filter(|line| line.starts_with(&format!("{tag} {kind} {begins}"))).count();
        ensure!(count == 1, "{count} of {kind}: {told}");
    }
    ensure!(told.contains("notifier.test"), "{told}");
    Ok(())
}

/// What the real one sends for the same alert has the same members of the same kinds as what we sent.
fn as_alertmanager(folder: &Path, address: &str) -> Result<()> {
    let hooks = lines(folder, "hook");
    let ours = hooks.iter().find(|hook| hook["path"] == "/ours" && hook["body"]["status"] == "firing");
    let ours = &ours.context("ours")?["body"];
    let alert = &ours["alerts"][0];
    let told = json!([{"labels": alert["labels"], "annotations": alert["annotations"], "generatorURL": alert["generatorURL"]}]);
    // Whoever was first has set it; plain HTTP needs one all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::blocking::Client::new();
    eventually("Alertmanager takes our labels", SOON, || {
        let answer = http.post(format!("http://{address}:19093/api/v2/alerts")).json(&told).send()?;
        ensure!(answer.status().is_success(), "{}", answer.text()?);
        Ok(())
    })?;
    eventually("Alertmanager has told it on", SOON, || {
        let hooks = lines(folder, "hook");
        let real = hooks.iter().find(|hook| hook["path"] == "/real").context("nothing yet")?;
        let (theirs, mine) = (shape(&real["body"]), shape(ours));
        ensure!(theirs == mine, "{theirs}\n{mine}");
        ensure!(real["body"]["alerts"][0]["labels"] == alert["labels"], "{real}");
        ensure!(real["body"]["alerts"][0]["endsAt"] == alert["endsAt"], "{real}");
        Ok(())
    })
}

/// Names of members and kinds of values; what words labels have is theirs.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            members.iter().map(|(name, member)| (name.clone(), shape(member))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(items) => items.first().map(shape).into_iter().collect(),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("truth"),
        Value::Null => Value::Null,
    }
}
