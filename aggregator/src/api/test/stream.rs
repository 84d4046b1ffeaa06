//! Events as they happen: resumed without gap, cut with the right to them.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::StreamExt;
use roost_aggregator_core::event::{Event, LinkId};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::fake::{Answer, Fake};
use super::code;

/// A hang ends here; nothing else waits for it.
const HANG: Duration = Duration::from_secs(60);

/// The ids and data of the first `count` events of a stream.
async fn streamed(fake: &Fake, last: Option<u64>, count: usize) -> Result<Vec<(u64, Value)>, Answer> {
    let mut request =
        Fake::request("GET", "/api/v1/events/stream").header("authorization", format!("Bearer {}", fake.token));
    if let Some(last) = last {
        request = request.header("last-event-id", last.to_string());
    }
    let request = request.body(Body::empty()).unwrap();
    let response = fake.router.clone().oneshot(request).await.unwrap();
    if response.status() != StatusCode::OK {
        let headers = response.headers().clone();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        return Err(Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() });
    }
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    fake.tell(Event::Closed { link: LinkId(2), why: "test".into() });
    let mut body = response.into_body().into_data_stream();
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    Ok(text
        .split("\n\n")
        .take(count)
        .map(|event| {
            let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            (line("id:").parse().unwrap(), serde_json::from_str(&line("data:")).unwrap())
        })
        .collect())
}

#[tokio::test]
async fn an_event_stream_is_resumed_without_gap_or_repeat() {
    let fake = Fake::new();
    let history = fake.get("/events").await.json();
    let sequences: Vec<u64> =
        history["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()).collect();
    assert!(sequences.len() > 2, "{history}");
    let resumed = streamed(&fake, Some(sequences[0]), sequences.len()).await.unwrap();
    let seen: Vec<u64> = resumed.iter().map(|(id, _)| *id).collect();
    assert_eq!(seen[..sequences.len() - 1], sequences[1..], "all after the first, once each");
    assert_eq!(seen[sequences.len() - 1], sequences[sequences.len() - 1] + 1, "then what happens now");
    assert!(resumed.iter().all(|(id, data)| data["seq"] == *id));
    let trimmed = streamed(&fake, Some(5), 1).await.unwrap_err();
    assert_eq!((trimmed.status.as_u16(), code(&trimmed).as_str()), (410, "trimmed"));
}

/// True when a stream with this secret is open, and ends once `end` was done.
async fn ends<F: Future<Output = Answer>>(fake: &Fake, secret: &str, end: F) -> bool {
    let request =
        Fake::request("GET", "/api/v1/events/stream?since=0").header("authorization", format!("Bearer {secret}"));
    let response = fake.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body().into_data_stream();
    assert!(body.next().await.is_some(), "it is open");
    let ended = end.await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT, "{}", ended.text);
    let rest = async { while body.next().await.is_some() {} };
    tokio::time::timeout(HANG, rest).await.is_ok()
}

#[tokio::test]
async fn a_stream_ends_with_the_session_or_token_it_was_opened_with() {
    let fake = Fake::with_password(Some("correct horse"));
    let login = || async {
        let body = json!({"user": "ada", "password": "correct horse"}).to_string();
        let request = Fake::request("POST", "/api/v1/sessions").header("content-type", "application/json");
        fake.send(request.body(Body::from(body)).unwrap()).await.json()
    };
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let made = fake.ask("POST", "/api-tokens", Some(json!({"name": "ci"}))).await.json();
    let path = format!("/api-tokens/{}", text(&made, "id"));
    assert!(ends(&fake, &text(&made, "token"), fake.ask("DELETE", &path, None)).await, "token taken back");
    let session = login().await;
    let path = format!("/sessions/{}", text(&session, "id"));
    assert!(ends(&fake, &text(&session, "token"), fake.ask("DELETE", &path, None)).await, "logged out");
    let session = login().await;
    let change = fake.ask("PUT", "/users/ada/password", Some(json!({"password": "battery staple"})));
    assert!(ends(&fake, &text(&session, "token"), change).await, "another password");
}
