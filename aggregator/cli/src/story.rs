//! Golden tests: the whole command against a tiny server of its own, word for word.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::out::Out;
use crate::run::{Surroundings, run};

/// Requests as they arrived: "METHOD path?query", the token, and the body.
type Seen = Arc<Mutex<Vec<(String, String, String)>>>;
type Replies = BTreeMap<&'static str, Vec<(u16, &'static str, String)>>;

struct Server {
    url: String,
    seen: Seen,
}

/// A server that gives each route's replies in turn, the last one again and again; any other route is not found.
fn server(replies: Vec<(&'static str, u16, Value)>) -> Server {
    let mut table = Replies::new();
    for (route, status, body) in replies {
        let (kind, text) = match body.as_str() {
            Some(stream) => ("text/event-stream", stream.to_owned()),
            None => ("application/json", body.to_string()),
        };
        table.entry(route).or_default().push((status, kind, text));
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &mut table, &shared);
        }
    });
    Server { url, seen }
}

fn answer(mut stream: std::net::TcpStream, table: &mut Replies, seen: &Seen) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    let (mut length, mut token) = (0, String::new());
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
            break;
        }
        let (name, value) = line.trim_end().split_once(": ").unwrap();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => value.clone_into(&mut token),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).unwrap();
    let request = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let route = request.split('?').next().unwrap().to_owned();
    seen.lock().unwrap().push((request, token, String::from_utf8(body).unwrap()));
    let missing =
        (404, "application/problem+json", json!({"code": "not_found", "detail": "no such thing"}).to_string());
    let (status, kind, text) = match table.get_mut(route.as_str()) {
        Some(replies) if replies.len() > 1 => replies.remove(0),
        Some(replies) => replies[0].clone(),
        None => missing,
    };
    let head =
        format!("HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close", text.len());
    write!(stream, "{head}\r\n\r\n{text}").unwrap();
}

/// Exit code, stdout and stderr of one command line.
fn told(line: &str, around: &Surroundings) -> (u8, String, String) {
    let (mut data, mut talk) = (Vec::new(), Vec::new());
    let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let code = run(&arguments, around, &mut Out::new(&mut data, &mut talk, false, false));
    (code, String::from_utf8(data).unwrap(), String::from_utf8(talk).unwrap())
}

fn around(server: &Server, folder: &Path) -> Surroundings {
    let vars = [("ROOST_URL", server.url.as_str()), ("ROOST_TOKEN", "rst_x"), ("HOME", folder.to_str().unwrap())];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Surroundings { vars, directory: folder.to_owned() }
}

fn operation(id: &str, state: &str) -> Value {
    json!({"id": id, "kind": "guest.start", "state": state, "progress": {"percent": 50, "step": "starting"}})
}

#[test]
fn a_list_is_followed_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let host =
        |name: &str| json!({"id": name, "name": name, "state": "up", "cpus": 2, "guests": 1, "guests_running": 1});
    let server = server(vec![
        ("GET /api/v1/hosts", 200, json!({"items": [host("a")], "next": "c&1"})),
        ("GET /api/v1/hosts", 200, json!({"items": [host("b")], "next": null})),
    ]);
    let (code, data, _) = told("roost host list --columns name,state,cpus", &around(&server, folder.path()));
    assert_eq!((code, data.as_str()), (0, "NAME  STATE  CPUS\na     up     2\nb     up     2\n"));
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[0].0, "GET /api/v1/hosts?limit=1000");
    assert_eq!(seen[1].0, "GET /api/v1/hosts?limit=1000&cursor=c%261");
    assert!(seen.iter().all(|(_, token, _)| token == "Bearer rst_x"));
}

#[test]
fn a_slow_operation_is_waited_for_with_its_progress() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(vec![
        ("POST /api/v1/guests/web1/actions/start", 202, operation("op1", "queued")),
        ("GET /api/v1/operations/op1", 200, operation("op1", "running")),
        ("GET /api/v1/operations/op1", 200, operation("op1", "succeeded")),
    ]);
    let around = around(&server, folder.path());
    let (code, data, talk) = told("roost guest start web1", &around);
    assert_eq!((code, data.as_str()), (0, ""));
    assert_eq!(talk, "guest.start web1: 50% starting\nguest.start web1: done\n");
    let (code, data, _) = told("roost guest start web1 --no-wait", &around);
    assert_eq!((code, data.as_str()), (0, "op1\n"));
    let (code, data, _) = told("roost guest start web1 -o json", &around);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap()["state"], "succeeded");
}

#[test]
fn an_operation_that_fails_later_fails_the_command_with_its_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let mut failed = operation("op1", "failed");
    failed["error"] = json!({"code": "wrong_state", "status": 409, "detail": "it runs", "try": "stop it first"});
    let server = server(vec![("POST /api/v1/guests/web1/actions/start", 202, failed)]);
    let (code, _, talk) = told("roost guest start web1", &around(&server, folder.path()));
    assert_eq!(code, 5);
    assert_eq!(talk, "error: guest.start web1 (wrong_state)\nwhy:   it runs\ntry:   stop it first\n");
}

#[test]
fn waiting_ends_at_its_time_and_says_that_the_operation_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(vec![
        ("POST /api/v1/guests/web1/actions/start", 202, operation("op1", "queued")),
        ("GET /api/v1/operations/op1", 200, operation("op1", "running")),
    ]);
    let (code, _, talk) = told("roost guest start web1 --timeout 0", &around(&server, folder.path()));
    assert_eq!(code, 6);
    assert!(talk.contains("operation op1 goes on"), "{talk}");
}

#[test]
fn of_several_some_may_fail_and_a_slip_of_the_pen_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(vec![
        ("POST /api/v1/guests/web1/actions/stop", 202, operation("op1", "succeeded")),
        ("GET /api/v1/guests", 200, json!({"items": [{"name": "web1"}, {"name": "mail"}]})),
    ]);
    let (code, _, talk) = told("roost guest stop web1 mial", &around(&server, folder.path()));
    assert_eq!(code, 7);
    assert!(
        talk.starts_with("error: guest.stop mial (not_found)\nwhy:   no such thing\ntry:   did you mean mail?\n"),
        "{talk}"
    );
}

#[test]
fn a_delete_without_yes_and_without_a_person_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(vec![("DELETE /api/v1/hosts/a%2Fb", 204, Value::Null)]);
    let around = around(&server, folder.path());
    assert_eq!(told("roost host remove a/b", &around).0, 2);
    assert!(server.seen.lock().unwrap().is_empty());
    assert_eq!(told("roost host remove a/b --yes", &around), (0, String::new(), "host.remove a/b: done\n".into()));
    assert_eq!(told("roost host remove .. --yes", &around).0, 2);
}

#[test]
fn words_that_do_not_exist_are_usage_errors_with_the_nearest() {
    let (code, _, talk) = told("roost gest list", &Surroundings::default());
    assert_eq!(code, 2);
    assert!(talk.contains("'guest'"), "{talk}");
    assert_eq!(told("roost guest list --state flying", &Surroundings::default()).0, 2);
    assert_eq!(told("roost host list", &Surroundings::default()).0, 3);
}

#[test]
fn events_resume_after_a_break_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let event =
        |seq: u32| format!("id: {seq}\ndata: {}\n\n", json!({"seq": seq, "kind": "guest.started", "text": "\u{1b}x"}));
    let server = server(vec![
        ("GET /api/v1/events/stream", 200, json!(event(1) + "id: 2\ndata: {")),
        ("GET /api/v1/events/stream", 200, json!(event(2))),
    ]);
    let (code, data, _) = told("roost events -f --count 2 -o jsonl", &around(&server, folder.path()));
    let seqs: Vec<Value> =
        data.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].clone()).collect();
    assert_eq!((code, seqs), (0, vec![json!(1), json!(2)]));
    assert!(!data.contains('\u{1b}'));
}

#[test]
fn the_demo_of_the_folder_is_the_last_resort_and_its_token_goes_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (server(vec![]), server(vec![]));
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    std::fs::create_dir_all(folder.path().join(".demo")).unwrap();
    std::fs::write(folder.path().join(".demo/ca.pem"), ca).unwrap();
    let access = json!({"url": ours.url, "ca": ".demo/ca.pem", "user": "admin", "password": "p", "token": "rst_demo"});
    std::fs::write(folder.path().join(".demo/access.json"), access.to_string()).unwrap();
    let below = folder.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let around = Surroundings { vars: BTreeMap::new(), directory: below };
    assert_eq!(told("roost grid get", &around).0, 4);
    assert_eq!(ours.seen.lock().unwrap()[0].1, "Bearer rst_demo");
    assert_eq!(told(&format!("roost grid get --url {}", other.url), &around).0, 4);
    assert_eq!(other.seen.lock().unwrap()[0].1, "");
    let (code, _, talk) = told("roost demo kill-host 2", &around);
    assert_eq!(code, 2);
    assert!(talk.contains("names no script"), "{talk}");
}

/// A folder with a demo whose script does nothing.
fn with_demo(server: &Server) -> (tempfile::TempDir, Surroundings) {
    let folder = tempfile::tempdir().unwrap();
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    std::fs::create_dir_all(folder.path().join(".demo")).unwrap();
    std::fs::write(folder.path().join(".demo/ca.pem"), ca).unwrap();
    let access = json!({"url": server.url, "ca": ".demo/ca.pem", "token": "rst_demo", "lab": "/bin/echo"});
    std::fs::write(folder.path().join(".demo/access.json"), access.to_string()).unwrap();
    let around = Surroundings { vars: BTreeMap::new(), directory: folder.path().to_owned() };
    (folder, around)
}

#[test]
fn a_demo_host_is_killed_and_what_waits_for_it_is_said() {
    let items = |item: Value| json!({"items": [item], "next": null});
    let why = "its copy is not whole yet";
    let at = |host: &str| json!({"id": "i", "name": "desk", "host_name": host, "state": "running", "protected": true});
    let waits = json!({"id": "j", "name": "web", "host_name": "h2", "state": "running", "unprotected_because": why});
    let takeover = json!({
        "guest": "i", "from": "h2", "to": "h3", "epoch": 5, "won": "2026-01-01T00:00:20Z", "votes": ["h1", "h3"],
        "started": "2026-01-01T00:00:22Z", "copy_age_s": 4,
    });
    let server = server(vec![
        ("GET /api/v1/hosts/h2", 200, json!({"name": "h2", "state": "up"})),
        ("GET /api/v1/guests", 200, json!({"items": [at("h2"), waits], "next": null})),
        ("GET /api/v1/guests", 200, items(at("h3"))),
        ("GET /api/v1/failovers", 200, json!({"items": [], "next": null})),
        ("GET /api/v1/failovers", 200, items(takeover)),
    ]);
    let (_folder, around) = with_demo(&server);
    let (code, data, talk) = told("roost demo kill-host 2", &around);
    assert_eq!((code, talk.as_str()), (0, ""));
    assert!(data.starts_with("kill-host 2\n"), "the script is asked to: {data}");
    for part in ["web waits for its host: its copy is not whole yet", "by the votes of h1, h3", "1 of 1 guests of h2"] {
        assert!(data.contains(part), "{part}: {data}");
    }
}

#[test]
fn no_demo_host_is_killed_that_is_off_already_or_not_there() {
    let server = server(vec![("GET /api/v1/hosts/h2", 200, json!({"name": "h2", "state": "down"}))]);
    let (folder, around) = with_demo(&server);
    let refused = |line: &str, wanted: u8, why: &str| {
        let (code, data, talk) = told(line, &around);
        assert!(code == wanted && data.is_empty() && talk.contains(why), "{line}: {code} {data}{talk}");
    };
    refused("roost demo kill-host 2", 5, "it is not up but down");
    refused("roost demo kill-host 9", 2, "find host h9");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let access = json!({"url": format!("http://{gone}"), "ca": ".demo/ca.pem", "token": "t", "lab": "/bin/echo"});
    std::fs::write(folder.path().join(".demo/access.json"), access.to_string()).unwrap();
    refused("roost demo kill-host 2", 1, "it does not run");
    refused("roost demo revive-host 2", 1, "it does not run");
}

#[test]
fn contexts_are_kept_private_and_chosen_by_name() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let server = server(vec![("GET /api/v1/grid", 200, json!({"id": "g"}))]);
    let mut around = around(&server, folder.path());
    around.vars.remove("ROOST_URL");
    around.vars.remove("ROOST_TOKEN");
    let mut contexts = crate::context::Contexts::default();
    let home =
        crate::context::Context { url: server.url.clone(), token: Some("rst_kept".into()), ..Default::default() };
    contexts.contexts.insert("home".into(), home);
    crate::context::save(&around, &contexts).unwrap();
    let mode = std::fs::metadata(folder.path().join(".config/roost/config.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(told("roost context use hom", &around).0, 2);
    assert_eq!(told("roost context use home", &around).0, 0);
    assert!(told("roost context list", &around).1.starts_with("* home"));
    assert_eq!(told("roost grid get -o json", &around).0, 0);
    assert_eq!(server.seen.lock().unwrap()[0].1, "Bearer rst_kept");
}

#[test]
fn a_context_can_be_logged_out_twice_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(vec![("DELETE /api/v1/sessions/current", 204, json!(null))]);
    let mut around = around(&server, folder.path());
    around.vars.remove("ROOST_URL");
    around.vars.remove("ROOST_TOKEN");
    let mut contexts = crate::context::Contexts { current: Some("home".into()), ..Default::default() };
    let home =
        crate::context::Context { url: server.url.clone(), token: Some("rss_kept".into()), ..Default::default() };
    contexts.contexts.insert("home".into(), home);
    crate::context::save(&around, &contexts).unwrap();
    assert!(told("roost context list", &around).1.ends_with("logged in\n"));
    assert_eq!(told("roost logout", &around).2, "logged out of home\n");
    assert_eq!(told("roost logout", &around).2, "nobody is logged in to home\n");
    assert_eq!(server.seen.lock().unwrap().len(), 1);
    assert!(told("roost context list", &around).1.ends_with("logged out\n"));
    let (code, _, talk) = told("roost context delete hom", &around);
    assert_eq!(code, 2);
    assert!(talk.contains("did you mean home?"), "{talk}");
    assert_eq!(told("roost context delete home", &around).0, 0);
    let (code, _, talk) = told("roost grid get", &around);
    assert_eq!(code, 3);
    assert!(talk.contains("try:   roost login https://HOST:8443"), "{talk}");
}

#[test]
fn who_is_logged_out_is_told_how_to_log_in_here_again() {
    let folder = tempfile::tempdir().unwrap();
    let problem = json!({"code": "login_required", "detail": "This needs a log-in.", "try": "Send a header."});
    let server = server(vec![("GET /api/v1/grid", 401, problem)]);
    let (code, _, talk) = told("roost grid get", &around(&server, folder.path()));
    assert_eq!(code, 3);
    assert!(talk.contains(&format!("try:   roost login {}", server.url)), "{talk}");
}

#[test]
fn any_request_can_be_sent_and_completions_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(vec![("POST /api/v1/join-tokens", 200, json!({"token": "t"}))]);
    let (code, data, _) = told("roost api POST /join-tokens?x=1 -d {\"a\":1}", &around(&server, folder.path()));
    assert_eq!((code, data.as_str()), (0, "{\n  \"token\": \"t\"\n}\n"));
    assert_eq!(server.seen.lock().unwrap()[0].2, "{\"a\":1}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, data, _) = told(&format!("roost completion {shell}"), &Surroundings::default());
        assert_eq!(code, 0);
        assert!(data.contains("join-token"));
    }
}

#[test]
fn a_host_s_memory_policy_is_set_in_part_refused_and_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let policy = json!({"sharing": "always", "balloons": false, "overcommit_permille": 1_500});
    let detail = "overcommit_permille is 500 to 5000";
    let no = json!({"code": "invalid", "status": 422, "detail": detail, "try": "Give another value."});
    let server = server(vec![
        ("POST /api/v1/hosts/h1/actions/set-memory", 200, policy),
        ("POST /api/v1/hosts/h1/actions/set-memory", 422, no),
        ("DELETE /api/v1/hosts/h1/memory/policy", 204, Value::Null),
    ]);
    let around = around(&server, folder.path());
    let line =
        "roost host set-memory h1 --sharing always --balloons=false --overcommit-permille 1500 --reserve-least 1G";
    let (code, data, _) = told(line, &around);
    let shown = "SHARING              always\nBALLOONS             no\nOVERCOMMIT_PERMILLE  1500\n";
    assert_eq!((code, data.as_str()), (0, shown));
    let (code, _, talk) = told("roost host set-memory h1 --overcommit-permille 50", &around);
    assert_eq!(code, 2);
    assert_eq!(talk, format!("error: host.set_memory h1 (invalid)\nwhy:   {detail}\ntry:   Give another value.\n"));
    assert_eq!(told("roost host clear-memory h1", &around).0, 0);
    let seen = server.seen.lock().unwrap();
    let body: Value = serde_json::from_str(&seen[0].2).unwrap();
    let given =
        json!({"sharing": "always", "balloons": false, "overcommit_permille": 1_500, "reserve_least_mib": 1_024});
    assert_eq!((body, seen.len()), (given, 3));
}

#[test]
fn hosts_are_upgraded_in_turn_and_what_was_refused_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let image = json!({"version": "1.0", "made": "2026-11-01T00:00:00Z"});
    let hosts = json!({"items": [
        {"id": "1", "name": "h1", "state": "up", "image": image, "alarms": []},
        {"id": "2", "name": "h2", "state": "down", "image": image, "alarms": []},
    ]});
    let away = json!({"code": "target_away", "status": 502, "detail": "no manifest is served there"});
    let server = server(vec![
        ("GET /api/v1/hosts", 200, hosts),
        ("GET /api/v1/guests", 200, json!({"items": []})),
        ("POST /api/v1/hosts/h1/actions/fetch-image", 200, json!({"state": "none"})),
        ("POST /api/v1/hosts/h1/actions/fetch-image", 502, away),
    ]);
    let around = around(&server, folder.path());
    let (code, _, talk) = told("roost host upgrade", &around);
    assert_eq!(code, 2);
    assert!(talk.contains("try:   add --one-by-one"), "{talk}");
    let (code, _, talk) = told("roost host upgrade h9", &around);
    assert_eq!(code, 4);
    assert!(talk.contains("there is no such host"), "{talk}");
    let (code, _, talk) = told("roost host upgrade --one-by-one", &around);
    assert_eq!(code, 5);
    let begun =
        "h1: looks for a newer image\nh1: runs the newest image already, 1.0\nerror: upgrade h2\nwhy:   h2 is down\n";
    assert!(talk.starts_with(begun), "{talk}");
    let (code, _, talk) = told("roost host upgrade h1", &around);
    assert_eq!(code, 1);
    assert!(talk.contains("why:   no manifest is served there"), "{talk}");
}
