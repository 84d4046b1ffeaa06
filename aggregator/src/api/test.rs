//! All faces together, against a real grid: what they promise to admins, and what they refuse to everybody.

use axum::body::Body;
use axum::http::{StatusCode, header};
use serde_json::json;
use tower::ServiceExt;

use super::dispatch::handler;
use super::fake::{Answer, Fake, guest};

mod access;
mod backup;
mod formats;
mod image;
mod memory;
mod repeat;
mod stream;

fn code(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), "application/problem+json", "{}", answer.text);
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status.as_u16());
    assert_eq!(problem["request_id"], answer.header("x-request-id"));
    assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
    problem["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_operation_of_the_registry_has_a_handler_and_both_faces() {
    let fake = Fake::new();
    let methods = fake.call("system.listMethods", &[]).await;
    for operation in roost_registry::operations() {
        let name = operation.name;
        assert!(handler(name).is_some(), "{name} has no handler");
        let in_xmlrpc = methods.contains(&format!("<string>{name}</string>"));
        assert_eq!(in_xmlrpc, operation.faces.no_xmlrpc.is_none(), "{name} in XML-RPC");
        let path =
            operation.path.replace("{ref}", "x").replace("{id}", "x").replace("{name}", "x").replace("{point}", "x");
        let request = Fake::request(operation.method.word(), &format!("/api/v1{path}")).body(Body::empty()).unwrap();
        let answer = fake.send(request).await;
        let expected = if operation.public { "invalid" } else { "login_required" };
        // Without a log-in nothing is told, and without inputs a log-in is invalid: both mean that the path is there.
        let got = code(&answer);
        assert!(got == expected || got == "invalid", "{name}: {got}");
        if in_xmlrpc {
            let signature = fake.call("system.methodSignature", &[&format!("<string>{name}</string>")]).await;
            assert!(!signature.contains("fault"), "{name}: {signature}");
            let help = fake.call("system.methodHelp", &[name]).await;
            assert!(help.contains(operation.summary.split(['&', '<', '>']).next().unwrap()), "{name}: {help}");
        }
    }
}

#[tokio::test]
async fn both_faces_show_the_same_guest() {
    let fake = Fake::new();
    let rest = fake.get("/guests/db").await.json();
    assert_eq!((&rest["state"], &rest["host_name"], &rest["stale"]), (&json!("off"), &json!("h1"), &json!(false)));
    let xml = fake.call("guest.get", &[&fake.token, "db"]).await;
    for (name, value) in rest.as_object().unwrap() {
        if let Some(text) = value.as_str() {
            assert!(xml.contains(&format!("<name>{name}</name><value><string>{text}</string>")), "{name}: {xml}");
        }
    }
}

#[tokio::test]
async fn lists_are_filtered_sorted_cut_and_counted() {
    let fake = Fake::new();
    let all = fake.get("/guests?sort=-name,host_name&fields=name,host_name&total=true&limit=2").await;
    let page = all.json();
    assert_eq!(page["items"], json!([{"name": "web", "host_name": "h1"}, {"name": "web", "host_name": "h2"}]));
    assert_eq!(page["total"], 4);
    let next = page["next"].as_str().unwrap();
    assert!(all.header("link").contains(next) && all.header("link").ends_with("rel=\"next\""), "{:?}", all.headers);
    let second = fake.get(&format!("/guests?sort=-name,host_name&fields=name&limit=2&cursor={next}")).await.json();
    assert_eq!(second["items"], json!([{"name": "db"}, {"name": "=cmd|x"}]));
    assert!(second.get("next").is_none());
    for (query, count) in
        [("state=running", 2), ("host=h2", 2), ("name=b", 3), ("managed=true", 0), ("state=off&host=h2", 0)]
    {
        let items = fake.get(&format!("/guests?{query}")).await.json()["items"].as_array().unwrap().len();
        assert_eq!(items, count, "{query}");
    }
    let hosts = fake.get("/hosts?fields=name,state,guests&sort=name").await.json();
    assert_eq!(hosts["items"][2], json!({"name": "h3", "state": "never", "guests": 0}));
}

#[tokio::test]
async fn nobody_waits_for_a_screen_of_a_host_that_is_away() {
    let fake = Fake::new();
    for path in [
        "/guests/db/screen",
        "/backup-sets/db/picture",
        "/guests/db/history?last=60",
        "/hosts/h1/history",
        "/guests/db/report",
    ] {
        let answer = fake.get(path).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (503, &json!("host_unreachable")), "{path}");
    }
    assert_eq!(fake.get("/guests/none/screen").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_history_nobody_can_give_is_refused_with_what_is_wrong() {
    let fake = Fake::new();
    for (query, wrong) in [
        ("points=0", "/points"),
        ("points=2001", "/points"),
        ("last=0", "/last"),
        ("until=noon", "/until"),
        ("until=1900-01-01T00:00:00Z", "/until"),
    ] {
        let answer = fake.get(&format!("/guests/db/history?{query}")).await;
        assert_eq!(answer.status.as_u16(), 422, "{query}");
        assert_eq!(answer.json()["errors"][0]["pointer"], wrong, "{query}");
    }
}

#[tokio::test]
async fn a_list_as_csv_holds_no_formula() {
    let fake = Fake::new();
    let csv = fake.get("/guests?format=csv&fields=name,state&sort=name").await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8; header=present");
    assert_eq!(csv.text, "name,state\r\n'=cmd|x,paused\r\ndb,off\r\nweb,running\r\nweb,running\r\n");
    let request = Fake::request("GET", "/api/v1/hosts?fields=name").header("accept", "text/csv");
    let request = request.header("authorization", format!("Bearer {}", fake.token)).body(Body::empty()).unwrap();
    assert!(fake.send(request).await.text.starts_with("name\r\n"));
}

#[tokio::test]
async fn a_large_list_travels_packed() {
    let fake = Fake::new();
    let request = Fake::request("GET", "/api/v1/openapi.json").header("accept-encoding", "gzip").body(Body::empty());
    let response = fake.router.clone().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
}

#[tokio::test]
async fn errors_say_what_is_wrong_and_what_to_do() {
    let fake = Fake::new();
    for (method, path, body, status, word) in [
        ("GET", "/guests/nobody", None, 404, "not_found"),
        ("GET", "/guests/web", None, 409, "ambiguous"),
        ("GET", "/guests/00000000-0000-0000-0000-0000000000ff", None, 404, "not_found"),
        ("GET", "/nothing", None, 404, "not_found"),
        ("GET", "/guests/..%2f..%2fetc", None, 404, "not_found"),
        ("GET", "/guests/%ff", None, 400, "bad_request"),
        ("PUT", "/guests", None, 405, "method_not_allowed"),
        ("GET", "/guests?stat=off", None, 422, "invalid"),
        ("GET", "/guests?limit=5000", None, 422, "invalid"),
        ("GET", "/guests?limit=1&limit=2", None, 422, "invalid"),
        ("POST", "/guests", Some(json!({"name": "x"})), 422, "invalid"),
        ("POST", "/guests", Some(json!({"name": "x", "memory_mib": "64"})), 422, "invalid"),
        ("POST", "/guests", Some(json!({"name": "a/b", "memory_mib": 64})), 422, "invalid"),
        ("POST", "/guests", Some(json!({"name": "db", "memory_mib": 64})), 409, "already_exists"),
        (
            "POST",
            "/guests",
            Some(json!({"name": "x", "memory_mib": 64, "disks": [{"from": "image", "path": "a"}]})),
            422,
            "invalid",
        ),
        ("POST", "/guests", Some(json!({"name": "x", "memory_mib": 64, "host": "h3"})), 503, "host_unreachable"),
        ("POST", "/guests", Some(json!({"name": "x", "memory_mib": 64, "host": "h9"})), 404, "not_found"),
        ("POST", "/guests", Some(json!([])), 400, "bad_request"),
        ("DELETE", "/operations/x", None, 404, "not_found"),
        ("DELETE", "/users/ada", None, 409, "wrong_state"),
        ("GET", "/events?since=1", None, 410, "trimmed"),
        ("POST", "/users", Some(json!({"name": "../x", "password": "long enough"})), 422, "invalid"),
        ("POST", "/users", Some(json!({"name": "bob", "password": "short"})), 422, "invalid"),
    ] {
        let answer = fake.ask(method, path, body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), code(&answer).as_str()),
            (status, word),
            "{method} {path} {body:?}: {}",
            answer.text
        );
    }
    let typo = fake.get("/guests?stat=off").await.json();
    assert_eq!(typo["errors"][0]["pointer"], "/stat");
    assert!(typo["errors"][0]["detail"].as_str().unwrap().contains("did you mean \"state\"?"));
    assert_eq!(fake.ask("PUT", "/guests", None).await.header("allow"), "GET, POST");
    assert!(fake.get("/guests/web").await.text.contains(&guest(21).to_string()));
}

#[tokio::test]
async fn bodies_are_bounded_typed_and_never_unpacked() {
    let fake = Fake::new();
    let send = |name: &'static str, value: String, body: Vec<u8>| {
        let request = Fake::request("POST", "/api/v1/guests").header("authorization", format!("Bearer {}", fake.token));
        fake.send(request.header(name, value).body(Body::from(body)).unwrap())
    };
    let large = send("content-type", "application/json".into(), vec![b' '; (1 << 20) + 1]).await;
    assert_eq!((large.status, code(&large).as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "too_large"));
    let announced = send("content-length", "99999999999".into(), vec![]).await;
    assert_eq!(code(&announced), "too_large");
    let packed = send("content-encoding", "gzip".into(), vec![1, 2, 3]).await;
    assert_eq!(code(&packed), "unsupported_media_type");
    let form = send("content-type", "application/x-www-form-urlencoded".into(), b"name=x".to_vec()).await;
    assert_eq!(code(&form), "unsupported_media_type");
    let deep = send("content-type", "application/json".into(), b"[".repeat(100_000)).await;
    assert_eq!(code(&deep), "bad_request");
}

#[tokio::test]
async fn a_slow_verb_answers_with_an_operation_that_can_be_waited_for() {
    let fake = Fake::new();
    let answer = fake.ask("POST", "/guests/db/actions/start", None).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let operation = answer.json();
    assert_eq!(
        (&operation["kind"], &operation["state"], &operation["created_by"]),
        (&json!("guest.start"), &json!("queued"), &json!("ada"))
    );
    let id = operation["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/api/v1/operations/{id}"));
    let path = format!("/operations/{id}?wait=60");
    let waiting = fake.get(&path);
    let ending = async {
        tokio::task::yield_now().await;
        fake.succeed(1, id.parse().unwrap());
    };
    let (waited, ()) = tokio::join!(waiting, ending);
    assert_eq!(waited.json()["state"], "succeeded");
    let cancelled = fake.ask("DELETE", &format!("/operations/{id}"), None).await;
    assert_eq!(code(&cancelled), "wrong_state");
    let listed = fake.get("/operations?state=succeeded").await.json();
    assert_eq!(listed["items"][0]["id"], json!(id));
}

#[tokio::test]
async fn an_operation_tells_when_its_host_began_it_and_what_an_imported_guest_is_called() {
    let fake = Fake::new();
    let wish = json!({"host": "h1", "xml": "<domain><name>legacy</name></domain>"});
    let asked = fake.ask("POST", "/guests/import", Some(wish)).await.json();
    assert_eq!(asked["resources"][0]["name"], "legacy");
    assert!(asked.get("started").is_none(), "{asked}");
    let id: roost_protocol::OperationId = asked["id"].as_str().unwrap().parse().unwrap();
    fake.progress(1, id);
    let running = fake.get(&format!("/operations/{id}")).await.json();
    assert_eq!(running["state"], "running");
    assert!(running["started"].as_str() >= running["created"].as_str(), "{running}");
    fake.succeed(1, id);
    let ended = fake.get(&format!("/operations/{id}")).await.json();
    assert_eq!((&ended["state"], &ended["started"]), (&json!("succeeded"), &running["started"]));
}

#[test]
fn times_stand_in_order_as_texts_too() {
    let texts = [1_000, 1_020, 1_023, 1_100].map(|millis| super::view::time(roost_protocol::Stamp(millis)));
    assert_eq!(texts[1], "1970-01-01T00:00:01.020Z");
    assert!(texts.is_sorted_by_key(|text| text.as_str().unwrap().to_owned()));
}

#[tokio::test]
async fn prefer_wait_answers_202_when_it_takes_longer() {
    let fake = Fake::new();
    let request = Fake::request("POST", "/api/v1/guests/db/actions/start").header("prefer", "wait=1");
    let request = request.header("authorization", format!("Bearer {}", fake.token)).body(Body::empty()).unwrap();
    let answer = fake.send(request).await;
    assert_eq!((answer.status, answer.json()["state"].as_str()), (StatusCode::ACCEPTED, Some("queued")));
}

#[tokio::test]
async fn health_metrics_and_versions_need_no_log_in() {
    let fake = Fake::new();
    let get = |path: &str| fake.send(Fake::request("GET", path).body(Body::empty()).unwrap());
    assert_eq!(get("/healthz").await.json()["status"], "ok");
    assert_eq!(get("/readyz").await.json()["status"], "ready");
    assert_eq!(get("/api").await.json()["versions"][0]["version"], "v1");
    assert_eq!(get("/api/v1/openapi.json").await.json()["openapi"], "3.1.0");
    let metrics = get("/metrics").await.text;
    for line in [
        "roost_hosts{state=\"up\"} 2",
        "roost_hosts{state=\"never\"} 1",
        "roost_guests{state=\"running\"} 2",
        "roost_document_generation 1",
        "roost_operations{state=\"failed\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let headers = get("/healthz").await.headers;
    assert_eq!(
        (&headers["x-content-type-options"], &headers["cache-control"]),
        (&"nosniff".parse().unwrap(), &"no-store".parse().unwrap())
    );
    assert!(headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
    assert_eq!(code(&get("/metrics/../etc/passwd").await), "not_found");
}

#[tokio::test]
async fn xmlrpc_calls_are_coerced_and_faults_have_their_codes() {
    let fake = Fake::new();
    let token = fake.token.clone();
    let started = fake.call("guest.start", &[&token, "db"]).await;
    assert!(started.contains("<string>guest.start</string>"), "{started}");
    let memory = "<struct><member><name>name</name><value>2</value></member><member><name>memory_mib</name><value><string>64</string></value></member></struct>";
    assert!(fake.call("guest.create", &[&token, memory]).await.contains("guest.create"));
    assert!(fake.call("guest.create", &[&token, "<i4>3</i4>", "<string>64</string>"]).await.contains("guest.create"));
    for (method, params, fault) in [
        (
            "guest.fly",
            vec![token.as_str()],
            "-32601</int></value></member><member><name>faultString</name><value><string>not_found: ",
        ),
        ("guest.get", vec![token.as_str()], "-32602"),
        ("guest.get", vec!["<int>1</int>", "db"], "-32602"),
        ("guest.get", vec!["", "db"], "4010"),
        ("guest.get", vec!["rss_wrong", "db"], "4010"),
        ("guest.get", vec![token.as_str(), "nobody"], "4040"),
        ("guest.get", vec![token.as_str(), "web"], "4090"),
        (
            "guest.list",
            vec![token.as_str(), "<struct><member><name>stat</name><value>off</value></member></struct>"],
            "4220",
        ),
        ("session.login", vec!["ada", ""], "4010"),
        ("event.stream", vec![token.as_str()], "-32601"),
    ] {
        let text = fake.call(method, &params).await;
        assert!(text.contains(&format!("<name>faultCode</name><value><int>{fault}")), "{method}: {text}");
    }
}

#[tokio::test]
async fn an_xmlrpc_list_is_an_array_of_structs_paged_by_arguments() {
    let fake = Fake::new();
    let member = |name: &str, value: &str| format!("<member><name>{name}</name><value>{value}</value></member>");
    let list = |members: String| {
        let options = format!("<struct>{members}</struct>");
        let fake = &fake;
        async move { fake.call("guest.list", &[&fake.token, &options]).await }
    };
    let all = fake.call("guest.list", &[&fake.token]).await;
    assert!(all.contains("<param><value><array><data><value><struct><member>"), "{all}");
    assert_eq!(all.matches("<name>host_name</name>").count(), 4, "all of them, without asking twice");
    let mut walked = Vec::new();
    for offset in 0..5 {
        let options = member("limit", "1") + &member("offset", &offset.to_string()) + &member("fields", "id");
        let page = list(options).await;
        let id = page.split("<name>id</name><value><string>").nth(1).map(|rest| rest[..36].to_owned());
        walked.extend(id);
    }
    assert_eq!(walked.len(), 4);
    assert!(walked.iter().all(|id| all.contains(id)));
    for (name, told) in [("cursor", "4220"), ("total", "4220"), ("format", "4220"), ("limt", "did you mean \"limit\"?")]
    {
        let fault = list(member(name, "1")).await;
        assert!(fault.contains(told) && fault.contains("has no such input in XML-RPC"), "{name}: {fault}");
    }
    let signature = fake.call("system.methodSignature", &["guest.list"]).await;
    assert!(signature.contains("<data><value><string>array</string></value>"), "{signature}");
}

#[tokio::test]
async fn a_multicall_is_bounded_and_one_fault_does_not_stop_the_rest() {
    let fake = Fake::new();
    let one = |method: &str, params: &str| {
        format!(
            "<value><struct><member><name>methodName</name><value>{method}</value></member><member><name>params</name><value><array><data>{params}</data></array></value></member></struct></value>"
        )
    };
    let all = |calls: String| format!("<array><data>{calls}</data></array>");
    let session = format!("<value>{}</value>", fake.token);
    let mixed = all(one("guest.fly", "") + &one("guest.list", &session) + &one("system.multicall", ""));
    let text = fake.call("system.multicall", &[&mixed]).await;
    assert!(text.matches("faultCode").count() == 2 && text.contains("<string>db</string>"), "{text}");
    let many = all(one("system.listMethods", "").repeat(101));
    assert!(fake.call("system.multicall", &[&many]).await.contains("at most 100"), "bounded");
}

#[tokio::test]
async fn hostile_xml_is_refused_and_the_service_lives() {
    let fake = Fake::new();
    let bomb = "<?xml version='1.0'?><!DOCTYPE lolz [<!ENTITY lol 'lol'><!ENTITY lol2 '&lol;&lol;'>]><methodCall><methodName>&lol2;</methodName></methodCall>";
    let deep =
        format!("<methodCall><methodName>m</methodName><params><param>{}", "<value><array><data>".repeat(30_000));
    for (body, fault) in [
        (bomb.to_owned(), "-32700"),
        (deep, "-32700"),
        ("not xml".to_owned(), "-32700"),
        ("x".repeat((1 << 20) + 1), "4220"),
    ] {
        let answer = fake.xml(body).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.text.contains(&format!("<int>{fault}</int>")) && answer.text.len() < 1_000, "{}", answer.text);
    }
    let latin = b"<?xml version='1.0' encoding='ISO-8859-1'?><methodCall><methodName>guest.get</methodName><params><param><value>".iter();
    let latin = latin
        .chain(fake.token.as_bytes())
        .chain(b"</value></param><param><value>\xe9</value></param></params></methodCall>");
    let answer = fake.xml(latin.copied().collect::<Vec<u8>>()).await;
    assert!(answer.text.contains("not_found: ") && answer.text.contains('é'), "{}", answer.text);
    assert_eq!(fake.get("/guests").await.header(header::CONTENT_TYPE.as_str()), "application/json");
}
