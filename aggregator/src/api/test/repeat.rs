//! Repeated and conditional requests: Idempotency-Key, ETag, If-Match, If-None-Match.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::fake::{Answer, Fake};
use super::code;

/// Sends with these headers beside the token.
async fn send(fake: &Fake, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let mut request = Fake::request(method, &format!("/api/v1{path}"));
    request = request.header("authorization", format!("Bearer {}", fake.token));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    fake.send(request.unwrap()).await
}

#[tokio::test]
async fn the_same_idempotency_key_is_answered_with_the_same_operation() {
    let fake = Fake::new();
    let post = |path: &'static str, body: Option<Value>| {
        let fake = &fake;
        async move { send(fake, "POST", path, &[("idempotency-key", "k1")], body).await }
    };
    let first = post("/guests/db/actions/start", None).await.json();
    let again = post("/guests/db/actions/start", None).await.json();
    assert_eq!(first["id"], again["id"]);
    assert_eq!(code(&post("/guests/db/actions/stop", None).await), "key_reused");
    assert_eq!(code(&post("/users", Some(json!({"name": "bob", "password": "long enough"}))).await), "key_reused");
    let create = |host: &str| json!({"name": "new", "memory_mib": 64, "host": host});
    let made = send(&fake, "POST", "/guests", &[("idempotency-key", "k2")], Some(create("h1"))).await;
    assert_eq!(made.status, StatusCode::ACCEPTED);
    let elsewhere = send(&fake, "POST", "/guests", &[("idempotency-key", "k2")], Some(create("h2"))).await;
    assert_eq!((elsewhere.status.as_u16(), code(&elsewhere).as_str()), (422, "key_reused"));
}

#[tokio::test]
async fn whatever_a_post_makes_is_made_once_for_one_key() {
    let fake = Fake::new();
    for (path, body, other) in [
        (
            "/users",
            json!({"name": "bob", "password": "long enough"}),
            json!({"name": "bob", "password": "long enougH"}),
        ),
        ("/join-tokens", json!({"name": "h9", "ttl_s": 60}), json!({"name": "h9", "ttl_s": 61})),
        ("/api-tokens", json!({"name": "ci"}), json!({"name": "cd"})),
    ] {
        let headers = [("idempotency-key", path)];
        let before = fake.get(path).await.json()["items"].as_array().unwrap().len();
        let first = send(&fake, "POST", path, &headers, Some(body.clone())).await;
        let again = send(&fake, "POST", path, &headers, Some(body.clone())).await;
        assert_eq!((first.status, &first.text), (again.status, &again.text), "{path}");
        assert_eq!(fake.get(path).await.json()["items"].as_array().unwrap().len(), before + 1, "{path}");
        let reused = send(&fake, "POST", path, &headers, Some(other)).await;
        assert_eq!((reused.status.as_u16(), code(&reused).as_str()), (422, "key_reused"), "{path}");
        let verb = send(&fake, "POST", "/guests/db/actions/start", &headers, None).await;
        assert_eq!(code(&verb), "key_reused", "{path}");
    }
    let headers = [("idempotency-key", "refused")];
    let short = json!({"name": "eve", "password": "short"});
    assert_eq!(code(&send(&fake, "POST", "/users", &headers, Some(short)).await), "invalid");
    let right = json!({"name": "eve", "password": "long enough"});
    assert_eq!(send(&fake, "POST", "/users", &headers, Some(right)).await.status, StatusCode::OK, "nothing was kept");
}

#[tokio::test]
async fn every_operation_takes_the_headers_that_the_document_says() {
    let document = roost_registry::openapi("1");
    for operation in roost_registry::operations() {
        let method = operation.method.word().to_ascii_lowercase();
        let described = &document["paths"][operation.path][&method];
        let parameters = described["parameters"].as_array().cloned().unwrap_or_default();
        let takes = |name: &str| parameters.iter().any(|parameter| parameter["name"] == name);
        let name = operation.name;
        assert_eq!(takes("Idempotency-Key"), method == "post" && name != "session.login", "{name}");
        let one = operation.path.contains('{');
        assert_eq!(takes("If-Match"), method != "get" && one, "{name}");
        let read = matches!(operation.output, roost_registry::Output::Object(_));
        let read = method == "get" && read && (one || name == "grid.get");
        assert_eq!((takes("If-None-Match"), described["responses"].get("304").is_some()), (read, read), "{name}");
        assert_eq!(takes("If-Match"), described["responses"].get("412").is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_thing_that_the_caller_has_already_is_not_sent_again() {
    let fake = Fake::new();
    let id = fake.ask("POST", "/guests/db/actions/start", None).await.json()["id"].as_str().unwrap().to_owned();
    // The wall clock of these tests runs on while the other stands still, so a host that was heard changes.
    for path in ["/hosts/h3", "/guests/db", "/users/ada", "/grid", &format!("/operations/{id}")] {
        let first = fake.get(path).await;
        let etag = first.header("etag");
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{path}: {etag}");
        let again = send(&fake, "GET", path, &[("if-none-match", etag)], None).await;
        assert_eq!((again.status, again.text.as_str(), again.header("etag")), (StatusCode::NOT_MODIFIED, "", etag));
        let other = send(&fake, "GET", path, &[("if-none-match", "\"other\"")], None).await;
        assert_eq!((other.status, &other.text), (StatusCode::OK, &first.text), "{path}");
    }
    let before = fake.get(&format!("/operations/{id}")).await;
    fake.succeed(1, id.parse().unwrap());
    let headers = [("if-none-match", before.header("etag"))];
    assert_eq!(send(&fake, "GET", &format!("/operations/{id}"), &headers, None).await.json()["state"], "succeeded");
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_not_changed_again() {
    let fake = Fake::with_password(Some("correct horse"));
    let etag = |answer: Answer| answer.header("etag").to_owned();
    let seen = etag(fake.get("/users/ada").await);
    let password = |text: &str| Some(json!({"password": text}));
    let changed = send(&fake, "PUT", "/users/ada/password", &[("if-match", &seen)], password("battery staple")).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT);
    let stale = send(&fake, "PUT", "/users/ada/password", &[("if-match", &seen)], password("overwritten!")).await;
    assert_eq!((stale.status.as_u16(), code(&stale).as_str()), (412, "changed"));
    assert!(stale.text.contains("Read it again"), "{}", stale.text);

    let seen = etag(fake.get("/guests/db").await);
    let host = etag(fake.get("/hosts/h1").await);
    fake.sample(1);
    assert_ne!(etag(fake.get("/hosts/h1").await), host, "the host's samples are new");
    fake.start_beside(1, 12);
    let stale = send(&fake, "DELETE", "/guests/db", &[("if-match", &seen)], None).await;
    assert_eq!(code(&stale), "changed", "it runs now");
    let fresh = etag(fake.get("/hosts/h1").await);
    fake.sample(1);
    let gone = send(&fake, "DELETE", "/hosts/h1", &[("if-match", &fresh)], None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "new samples alone stop nobody: {}", gone.text);
    assert_eq!(code(&send(&fake, "DELETE", "/hosts/h1", &[("if-match", "*")], None).await), "not_found");
    let token = fake.ask("POST", "/join-tokens", Some(json!({}))).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/join-tokens/{token}");
    let seen = etag(fake.get(&path).await);
    fake.expire(&token);
    assert_eq!(code(&send(&fake, "DELETE", &path, &[("if-match", &seen)], None).await), "changed");
    assert_eq!(send(&fake, "DELETE", &path, &[("if-match", "*")], None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(code(&send(&fake, "DELETE", "/guests/db", &[("if-match", "nonsense")], None).await), "bad_request");
    assert_eq!(code(&send(&fake, "POST", "/join-tokens", &[("if-match", "*")], None).await), "bad_request");
}

#[tokio::test]
async fn a_repeat_by_key_is_answered_also_when_the_first_changed_what_if_match_says() {
    let fake = Fake::new();
    let seen = fake.get("/guests/db").await.header("etag").to_owned();
    let headers = [("if-match", seen.as_str()), ("idempotency-key", "k")];
    let first = send(&fake, "POST", "/guests/db/actions/start", &headers, None).await;
    fake.start_beside(1, 12);
    let again = send(&fake, "POST", "/guests/db/actions/start", &headers, None).await;
    assert_eq!((again.status, &again.json()["id"]), (StatusCode::ACCEPTED, &first.json()["id"]));
}
