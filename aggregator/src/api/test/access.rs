//! Who may come in: log-ins, API tokens, join tokens.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::json;

use super::super::fake::{Fake, host};
use super::code;

#[tokio::test]
async fn a_log_in_opens_by_bearer_and_by_cookie_and_ends_with_the_password() {
    let fake = Fake::with_password(Some("correct horse"));
    let login = |user: &str, password: &str| {
        let body = json!({"user": user, "password": password}).to_string();
        let request = Fake::request("POST", "/api/v1/sessions").header("content-type", "application/json");
        fake.send(request.body(Body::from(body)).unwrap())
    };
    for (user, password) in [("ada", "wrong"), ("nobody", "wrong"), ("ada", "")] {
        let answer = login(user, password).await;
        assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::UNAUTHORIZED, "login_failed"));
        assert!(!answer.text.contains(user), "unknown and known users are told the same");
    }
    let session = login("ada", "correct horse").await;
    let cookie = session.header("set-cookie");
    for part in ["__Host-roost=rss_", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let token = session.json()["token"].as_str().unwrap().to_owned();
    let with = |method: &str, path: &str, name: &'static str, value: String, csrf: bool| {
        let mut request = Fake::request(method, path).header(name, value);
        if csrf {
            request = request.header("x-roost-csrf", "1");
        }
        fake.send(request.body(Body::empty()).unwrap())
    };
    let start = "/api/v1/guests/db/actions/start";
    assert_eq!(with("GET", "/api/v1/guests", "authorization", format!("Bearer {token}"), false).await.status, 200);
    assert_eq!(with("GET", "/api/v1/guests", "cookie", cookie.clone(), false).await.status, 200);
    assert_eq!(code(&with("POST", start, "cookie", cookie.clone(), false).await), "forbidden");
    assert_eq!(with("POST", start, "cookie", cookie.clone(), true).await.status, 202);
    assert_eq!(
        with("GET", "/api/v1/guests", "cookie", format!("__Host-roost={}", fake.token), false).await.status,
        401
    );
    assert!(fake.get("/sessions").await.text.contains("192.0.2.7"));
    let changed = fake.ask("PUT", "/users/ada/password", Some(json!({"password": "battery staple"}))).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT);
    assert_eq!(with("GET", "/api/v1/guests", "cookie", cookie, false).await.status, 401);
    let session = login("ada", "battery staple").await.json();
    let bearer = format!("Bearer {}", session["token"].as_str().unwrap());
    assert_eq!(with("DELETE", "/api/v1/sessions/current", "authorization", bearer.clone(), false).await.status, 204);
    assert_eq!(with("GET", "/api/v1/guests", "authorization", bearer, false).await.status, 401);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_told_for_how_long() {
    let fake = Fake::with_password(Some("correct horse"));
    let login = |password: &str| {
        let body = json!({"user": "ada", "password": password}).to_string();
        let request = Fake::request("POST", "/api/v1/sessions").header("content-type", "application/json");
        fake.send(request.body(Body::from(body)).unwrap())
    };
    for _ in 0..5 {
        assert_eq!(login("wrong").await.status, 401);
    }
    let slowed = login("correct horse").await;
    assert_eq!((slowed.status.as_u16(), slowed.header("retry-after")), (429, "1"));
    assert_eq!(slowed.json()["retry_after_s"], 1);
    let text = fake.call("session.login", &["ada", "correct horse"]).await;
    assert!(text.contains("<int>4290</int>") && text.contains("slow_down: "), "{text}");
    fake.later(2);
    assert_eq!(login("correct horse").await.status, 200);
}

#[tokio::test]
async fn a_token_works_as_bearer_and_as_basic_password_until_taken_back() {
    use base64::Engine;
    let fake = Fake::new();
    let made = fake.ask("POST", "/api-tokens", Some(json!({"name": "ci", "ttl_s": 3600}))).await.json();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(!fake.get("/api-tokens").await.text.contains(token));
    let basic = |user: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"));
        let request = Fake::request("GET", "/api/v1/guests").header("authorization", format!("Basic {text}"));
        fake.send(request.body(Body::empty()).unwrap())
    };
    assert_eq!(basic("ada").await.status, 200);
    assert_eq!(basic("").await.status, 200);
    assert_eq!(basic("eve").await.status, 401);
    let taken = fake.ask("POST", "/api-tokens", Some(json!({"name": "ci"}))).await;
    assert_eq!(code(&taken), "already_exists");
    assert_eq!(fake.ask("DELETE", &format!("/api-tokens/{id}"), None).await.status, 204);
    assert_eq!(basic("ada").await.status, 401);
    for wrong in ["Bearer", "Bearer rst_x", "Negotiate abc", "Basic %%%"] {
        let request = Fake::request("GET", "/api/v1/guests").header("authorization", wrong);
        assert_eq!(fake.send(request.body(Body::empty()).unwrap()).await.status, 401, "{wrong}");
    }
}

#[tokio::test]
async fn a_join_token_is_shown_once_and_fits_the_grid() {
    let fake = Fake::new();
    let wish = json!({"name": "rack4-7", "note": "rack 4", "ttl_s": 600});
    let made = fake.ask("POST", "/join-tokens", Some(wish)).await.json();
    let token = roost_protocol::enrol::JoinToken::parse(made["token"].as_str().unwrap()).unwrap();
    assert_eq!((&made["id"], &made["state"]), (&json!(token.id()), &json!("unused")));
    let path = format!("/join-tokens/{}", token.id());
    let listed = fake.get("/join-tokens").await;
    let first = &listed.json()["items"][0];
    assert_eq!((&first["name"], &first["note"]), (&json!("rack4-7"), &json!("rack 4")));
    assert!(!listed.text.contains("roost1-") && !fake.get(&path).await.text.contains("roost1-"));
    assert_eq!(code(&fake.ask("POST", "/join-tokens", Some(json!({"name": "rack 4"}))).await), "invalid");
    let gone = fake.ask("DELETE", &path, None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(code(&fake.get(&path).await), "not_found");
}

#[tokio::test]
async fn join_tokens_tell_whether_when_and_by_whom_they_were_used() {
    let fake = Fake::new();
    let mut ids = Vec::new();
    for ttl_s in [600, 600, 1] {
        let made = fake.ask("POST", "/join-tokens", Some(json!({"ttl_s": ttl_s}))).await.json();
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    fake.join(&ids[0], 4, "h4");
    fake.expire(&ids[2]);
    let state = |id: String| {
        let fake = &fake;
        async move { fake.get(&format!("/join-tokens/{id}")).await.json() }
    };
    let used = state(ids[0].clone()).await;
    assert_eq!((&used["state"], &used["used_by_name"]), (&json!("used"), &json!("h4")));
    assert_eq!(used["used_by"], json!(host(4)));
    assert!(used["used"].is_string(), "{used}");
    assert_eq!(state(ids[1].clone()).await["state"], "unused");
    assert_eq!(state(ids[2].clone()).await["state"], "expired");
    let listed = fake.get("/join-tokens?state=used").await.json();
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &json!(ids[0])));
}

#[tokio::test]
async fn users_and_api_tokens_tell_when_somebody_last_came_in() {
    let fake = Fake::with_password(Some("correct horse"));
    assert!(fake.get("/users/ada").await.json().get("last_login").is_none());
    let made = fake.ask("POST", "/api-tokens", Some(json!({"name": "ci"}))).await.json();
    let path = format!("/api-tokens/{}", made["id"].as_str().unwrap());
    assert!(fake.get(&path).await.json().get("last_used").is_none());
    for (password, status) in [("wrong", 401), ("correct horse", 200)] {
        let body = json!({"user": "ada", "password": password}).to_string();
        let request = Fake::request("POST", "/api/v1/sessions").header("content-type", "application/json");
        assert_eq!(fake.send(request.body(Body::from(body)).unwrap()).await.status, status);
        let user = fake.get("/users/ada").await.json();
        assert_eq!(user["last_login"].is_string(), status == 200, "{user}");
    }
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let request = Fake::request("GET", "/api/v1/grid").header("authorization", bearer).body(Body::empty());
    assert_eq!(fake.send(request.unwrap()).await.status, StatusCode::OK);
    assert!(fake.get(&path).await.json()["last_used"].is_string());
    assert!(fake.get("/api-tokens").await.json()["items"][0]["last_used"].is_string());
}
