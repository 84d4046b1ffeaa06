//! Backup through the API: policies, sets, points from the host that has them, replicas.

use axum::http::StatusCode;
use roost_protocol::Millis;
use roost_protocol::backup::{BackupBeat, ReplicaState, ReplicaStatus, StoreStatus};
use serde_json::{Value, json};

use super::super::fake::{Fake, guest, host, set};
use super::code;

/// A grid whose host h1 tells of the points of `db` (guest 12) and of a guest that is gone (guest 13).
fn told() -> Fake {
    let fake = Fake::new();
    let store =
        StoreStatus { total: 100 << 20, free: 10 << 20, used: 1, days_to_full: Some(3), held: true, points: 10 };
    let mut gone = set(13, None);
    gone.guest_name = "lost".into();
    let replica = ReplicaStatus {
        guest: guest(12),
        host: Some(host(2)),
        state: ReplicaState::Broken { why: "the disk is full".into() },
        lag: Some(Millis(61_500)),
        point: None,
        shows: None,
        every: Millis(5_000),
        max_lag: Millis(15_000),
    };
    let (sets, replicas) = (vec![set(12, None), gone], vec![replica]);
    fake.backups(1, BackupBeat { sets, replicas, store: Some(store), ..BackupBeat::default() });
    fake
}

#[tokio::test]
async fn a_policy_is_made_replaced_and_deleted_and_says_what_is_wrong_with_it() {
    let fake = Fake::new();
    let rules = json!({"name": "nightly", "schedule": "mon..fri 20:30", "time_zone": "Europe/Zurich", "keep_daily": 7,
        "replica_every_s": 5, "replica_host": "h2", "replica_failover": true, "targets": ["host:h2", "/mnt/nas"], "prove_every_s": 86400,
        "priority": 7});
    let made = fake.ask("POST", "/backup-policies", Some(rules.clone())).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    let made = made.json();
    assert_eq!((&made["schedule"], &made["time_zone"]), (&rules["schedule"], &rules["time_zone"]));
    assert_eq!((&made["replica_max_lag_s"], &made["keep_daily"]), (&json!(15), &json!(7)));
    assert_eq!((&made["targets"][1], &made["replica_failover"]), (&json!("/mnt/nas"), &json!(true)));
    assert_eq!(code(&fake.ask("POST", "/backup-policies", Some(rules)).await), "already_exists");
    let replaced = fake.ask("PUT", "/backup-policies/nightly", Some(json!({"keep_last": 3}))).await.json();
    assert_eq!((&replaced["schedule"], &replaced["keep_last"]), (&Value::Null, &json!(3)));
    assert_eq!(
        (&replaced["replica_failover"], &replaced["priority"], &made["priority"]),
        (&json!(false), &json!(0), &json!(7))
    );
    assert!(replaced["generation"].as_u64() > made["generation"].as_u64());
    for (wrong, pointer) in [
        (json!({"name": "x", "schedule": "when I like"}), ""),
        (json!({"name": "x", "schedule": "daily", "time_zone": "Nowhere/Land"}), "/time_zone"),
        (json!({"name": "x", "jitter_s": 5}), "/schedule"),
        (json!({"name": "x", "priority": 10}), ""),
        (json!({"name": "x", "targets": ["../etc"]}), "/targets"),
        (json!({"name": "x", "replica_every_s": 1}), ""),
        (json!({"name": "x", "replica_max_lag_s": 9}), "/replica_max_lag_s"),
        (json!({"name": "x", "replica_failover": true}), "/replica_failover"),
    ] {
        let answer = fake.ask("POST", "/backup-policies", Some(wrong.clone())).await;
        assert_eq!(code(&answer), "invalid", "{wrong}");
        assert!(answer.text.contains(pointer), "{wrong}: {}", answer.text);
    }
    assert_eq!(fake.ask("DELETE", "/backup-policies/nightly", None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(code(&fake.get("/backup-policies/nightly").await), "not_found");
}

#[tokio::test]
async fn points_come_page_by_page_from_the_host_that_has_them_newest_first() {
    let fake = told();
    let points = fake.get("/backup-sets/db/backups").await.json();
    let times: Vec<&str> = points["items"].as_array().unwrap().iter().map(|p| p["time"].as_str().unwrap()).collect();
    assert_eq!(times.len(), 5);
    assert!(times.is_sorted_by(|a, b| a > b), "{times:?}");
    let third = points["items"][2]["id"].as_str().unwrap();
    let one = fake.get(&format!("/backup-sets/db/backups/{third}")).await.json();
    assert_eq!((&one["consistency"], &one["size_mib"]), (&json!("filesystem"), &json!(10)));
    assert_eq!(code(&fake.get("/backup-sets/db/backups/7").await), "not_found");
    assert_eq!(fake.get("/backup-sets/lost/backups").await.json()["items"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn what_is_asked_of_points_becomes_an_operation_of_their_host() {
    let fake = told();
    let point = "00000000-0000-0000-0000-000000000003";
    for (method, path, body, kind) in [
        ("POST", "/backup-sets/db/actions/run".to_owned(), json!({"note": "before the upgrade"}), "guest.backup"),
        ("POST", "/backup-sets/lost/actions/verify".to_owned(), Value::Null, "guest.verify"),
        ("POST", format!("/backup-sets/db/backups/{point}/actions/pin"), Value::Null, "guest.pin"),
        ("POST", format!("/backup-sets/lost/backups/{point}/actions/restore"), Value::Null, "guest.restore"),
        ("DELETE", format!("/backup-sets/db/backups/{point}"), Value::Null, "guest.delete-point"),
    ] {
        let answer = fake.ask(method, &path, Some(body).filter(|body| !body.is_null())).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{path}: {}", answer.text);
        let operation = answer.json();
        assert_eq!(operation["kind"], kind);
        assert_eq!(operation["resources"][1]["name"], "h1", "{path}");
    }
    let restore = format!("/backup-sets/db/backups/{point}/actions/restore");
    let new = fake.ask("POST", &restore, Some(json!({"name": "db2", "host": "h2"}))).await.json();
    assert_eq!((&new["resources"][0]["name"], &new["resources"][1]["name"]), (&json!("db2"), &json!("h2")));
    assert_eq!(code(&fake.ask("POST", &restore, Some(json!({"name": "web"}))).await), "already_exists");
    assert_eq!(code(&fake.ask("POST", &restore, Some(json!({"hostname": "x"}))).await), "invalid");
    // Out of a folder a guest comes back that no host of the grid ever had.
    let strange = format!("/backup-sets/{}/backups/{point}/actions/restore", guest(0xabc));
    let from = |more: Value| {
        let mut order = json!({"name": "back", "from": "/mnt/nas/store"});
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Some(order)
    };
    let back = fake.ask("POST", &strange, from(json!({"host": "h2"}))).await.json();
    assert_eq!((&back["kind"], &back["state"]), (&json!("guest.restore"), &json!("queued")), "{back}");
    assert_eq!(code(&fake.ask("POST", &strange, from(json!({}))).await), "invalid", "where to?");
    assert_eq!(code(&fake.ask("POST", &strange, Some(json!({"name": "b", "host": "h2"}))).await), "not_found");
    assert_eq!(code(&fake.ask("POST", &restore, from(json!({"from": "nas"}))).await), "invalid");
    assert_eq!(code(&fake.ask("POST", &restore, Some(json!({"name": "n", "hostname": "-"}))).await), "invalid");
}

#[tokio::test]
async fn a_guest_follows_a_policy_and_is_given_each_new_generation_of_it() {
    let fake = told();
    fake.ask("POST", "/backup-policies", Some(json!({"name": "daily", "schedule": "daily"}))).await;
    let given = fake.ask("POST", "/backup-sets/db/actions/set-policy", Some(json!({"policy": "daily"}))).await.json();
    assert_eq!(given["kind"], "guest.set-policy");
    fake.succeed(1, given["id"].as_str().unwrap().parse().unwrap());
    let generation = fake.get("/backup-policies/daily").await.json()["generation"].as_u64().unwrap();
    fake.backups(1, BackupBeat { sets: vec![set(12, Some(("daily", generation)))], ..BackupBeat::default() });
    assert_eq!(fake.get("/backup-policies/daily").await.json()["guests"], 1);
    assert_eq!(code(&fake.ask("DELETE", "/backup-policies/daily", None).await), "wrong_state");
    let by_grid = async || {
        let all = fake.get("/operations?limit=1000").await.json();
        all["items"].as_array().unwrap().iter().filter(|operation| operation["created_by"] == "grid").count()
    };
    assert_eq!(by_grid().await, 0);
    fake.ask("PUT", "/backup-policies/daily", Some(json!({"schedule": "hourly"}))).await;
    assert_eq!(by_grid().await, 1, "asked for at once");
    fake.backups(1, BackupBeat { sets: vec![set(12, Some(("daily", generation)))], ..BackupBeat::default() });
    assert_eq!(by_grid().await, 1, "and once");
}

#[tokio::test]
async fn sets_replicas_and_stores_are_shown_with_what_is_wrong() {
    let fake = told();
    let sets = fake.get("/backup-sets?sort=name").await.json();
    let names: Vec<&str> = sets["items"].as_array().unwrap().iter().map(|set| set["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["db", "lost"]);
    let replica = fake.get("/replicas/db").await.json();
    assert_eq!((&replica["state"], &replica["lag_s"]), (&json!("broken"), &json!(61)));
    assert_eq!((&replica["replica_host_name"], &replica["why"]), (&json!("h2"), &json!("the disk is full")));
    let store = &fake.get("/hosts/h1").await.json()["store"];
    assert_eq!((&store["held"], &store["days_to_full"], &store["used_mib"]), (&json!(true), &json!(3), &json!(1)));
}
