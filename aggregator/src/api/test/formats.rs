//! Lists as people's programs take them: tables of HTML, web queries of Excel, Common Base Events.

use axum::body::Body;
use roost_registry::{Output, Place, operations};
use serde_json::json;

use super::super::fake::{Answer, Fake};

/// As Excel asks: by the address alone.
async fn without_login(fake: &Fake, address: &str) -> Answer {
    let path = address.strip_prefix("https://grid.test:8443").unwrap_or_else(|| panic!("{address}"));
    fake.send(Fake::request("GET", path).body(Body::empty()).unwrap()).await
}

async fn link(fake: &Fake, path: &str) -> String {
    let file = fake.get(path).await;
    assert_eq!(file.header("content-type"), "text/x-ms-iqy", "{}", file.text);
    let lines: Vec<&str> = file.text.split("\r\n").collect();
    assert_eq!((lines.len(), lines[0], lines[1], lines[3]), (4, "WEB", "1", ""), "{}", file.text);
    lines[2].to_owned()
}

#[tokio::test]
async fn every_list_is_there_as_csv_as_html_and_as_a_web_query() {
    let fake = Fake::new();
    let lists = operations().iter().filter(|operation| matches!(operation.output, Output::List(_)));
    let lists = lists.filter(|operation| operation.fields().all(|field| field.place != Place::Path));
    let mut seen = 0;
    for operation in lists {
        for (format, kind) in [("csv", "text/csv"), ("html", "text/html"), ("iqy", "text/x-ms-iqy")] {
            let answer = fake.get(&format!("{}?format={format}", operation.path)).await;
            let is = (answer.status.as_u16(), answer.header("content-type").starts_with(kind));
            assert_eq!(is, (200, true), "{} {format}: {}", operation.name, answer.text);
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

#[tokio::test]
async fn a_list_as_html_holds_neither_markup_nor_formula() {
    let fake = Fake::new();
    let html = fake.get("/guests?format=html&fields=name,state&sort=name").await;
    assert_eq!(html.header("content-type"), "text/html; charset=utf-8");
    assert!(html.header("content-security-policy").contains("default-src 'none'"));
    assert!(html.text.contains("<tr><td>&#39;=cmd|x</td><td>paused</td></tr>"), "{}", html.text);
    assert!(html.text.contains("<tr><td>db</td><td>off</td></tr>"), "{}", html.text);
}

#[tokio::test]
async fn a_web_query_asks_for_its_list_and_nothing_else_without_a_log_in() {
    let fake = Fake::new();
    let address = link(&fake, "/guests?format=iqy&fields=name&sort=name").await;
    let list = without_login(&fake, &address).await;
    assert!(list.text.contains("<tr><td>db</td></tr>"), "{} {}", list.status, list.text);
    for other in [
        address.replace("guests", "hosts"),
        address.replace("fields=name", "fields=name,state"),
        address.replace("format=html", "format=json"),
        address.replace("format=html", "format=iqy"),
        address.replace("&format=html", ""),
        format!("{address}&limit=1"),
        address.replace("token=rsl_", "token=rsl_f"),
        format!("{address}x"),
        address.split("&token=").next().unwrap().to_owned(),
    ] {
        let refused = without_login(&fake, &other).await;
        assert_eq!(refused.json()["code"], "login_required", "{other}");
    }
}

#[tokio::test]
async fn a_web_query_ends_with_the_api_token_that_made_it() {
    let fake = Fake::new();
    let token = fake.ask("POST", "/api-tokens", Some(json!({"name": "excel"}))).await.json();
    let request = Fake::request("GET", "/api/v1/hosts?format=iqy")
        .header("authorization", format!("Bearer {}", token["token"].as_str().unwrap()));
    let file = fake.send(request.body(Body::empty()).unwrap()).await.text;
    let address = file.split("\r\n").nth(2).unwrap();
    assert_eq!(without_login(&fake, address).await.status, 200);
    fake.ask("DELETE", &format!("/api-tokens/{}", token["id"].as_str().unwrap()), None).await;
    assert_eq!(without_login(&fake, address).await.status, 401);
}

#[tokio::test]
async fn a_notifier_by_file_writes_common_base_events_where_nobody_says_and_not_where_somebody_does() {
    let fake = Fake::new();
    let made = fake.ask("POST", "/notifiers", Some(json!({"name": "tec", "kind": "file", "severity": "info"}))).await;
    assert_eq!((made.status.as_u16(), &made.json()["file"]), (200, &json!("events/tec.xml")), "{}", made.text);
    let tried = fake.ask("POST", "/notifiers/tec/actions/test", None).await;
    assert_eq!(tried.status, 204, "{}", tried.text);
    let written = std::fs::read_to_string(fake.data.path().join("events/tec.xml")).unwrap();
    assert!(written.starts_with("<CommonBaseEvent ") && written.ends_with("</CommonBaseEvent>\n"), "{written}");
    for body in [
        json!({"name": "../tec", "kind": "file"}),
        json!({"name": "/tmp/tec", "kind": "file"}),
        json!({"name": "a", "kind": "file", "url": "file:///tmp/tec"}),
        json!({"name": "a", "kind": "file", "secret": "s"}),
    ] {
        let refused = fake.ask("POST", "/notifiers", Some(body.clone())).await;
        assert_eq!(refused.status, 422, "{body}: {}", refused.text);
    }
    let folder = fake.data.path().join("events");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let failed = fake.ask("POST", "/notifiers/tec/actions/test", None).await.json();
    let said = failed["detail"].as_str().unwrap_or_default();
    assert!(said.contains("make the folder of") && said.contains("events/tec.xml"), "{failed}");
}

#[tokio::test]
async fn events_are_there_as_common_base_events_and_other_lists_are_not() {
    let fake = Fake::new();
    let xml = fake.get("/events?format=cbe").await;
    assert_eq!(xml.header("content-type"), "application/xml; charset=utf-8");
    let events = fake.get("/events").await.json()["items"].as_array().unwrap().len();
    assert!(events > 0);
    assert_eq!(xml.text.matches("<CommonBaseEvent ").count(), events, "{}", xml.text);
    assert_eq!(fake.get("/hosts?format=cbe").await.status, 422);
    assert_eq!(fake.get("/events?format=cbe&fields=seq").await.status, 422);
}
