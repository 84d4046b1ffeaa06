//! How dense a host is packed: said, changed, refused, taken back. What a host answers is in a test of its own.

use roost_aggregator_core::Call;
use roost_protocol::memory::{MemoryOrder, MemoryPolicy, Sharing};
use serde_json::json;

use super::code;
use crate::api::fake::{Fake, host};

const SET: &str = "/hosts/h1/actions/set-memory";

#[tokio::test]
async fn a_memory_policy_is_changed_in_part_and_a_wrong_one_refused_with_what_is_right() {
    let fake = Fake::new();
    let less = json!({"overcommit_permille": 1_000});
    let unknown = fake.ask("POST", SET, Some(less.clone())).await;
    assert_eq!(code(&unknown), "host_unreachable", "nobody knows what the rest is");
    assert!(unknown.json()["try"].as_str().unwrap().contains("not given"), "{}", unknown.text);
    let policy = MemoryPolicy { sharing: Sharing::Always, ..MemoryPolicy::default() };
    fake.called(Call::SetMemory { host: host(1), order: Box::new(MemoryOrder { policy: Some(policy) }) });
    let changed = fake.ask("POST", SET, Some(less.clone())).await.json();
    assert_eq!((&changed["sharing"], &changed["overcommit_permille"]), (&json!("always"), &json!(1_000)));
    let more = json!({"balloons": false, "ksm_pay_mib": 16});
    let changed = fake.ask("POST", SET, Some(more)).await.json();
    assert_eq!((&changed["balloons"], &changed["ksm_pay_mib"]), (&json!(false), &json!(16)));
    assert_eq!(changed["overcommit_permille"], 1_000, "it stays");
    for (given, kept) in [("red", json!("red")), ("", json!(null))] {
        let changed = fake.ask("POST", SET, Some(json!({"trust": given}))).await.json();
        assert_eq!((&changed["trust"], &changed["ksm_pay_mib"]), (&kept, &json!(16)));
    }
    let wrong = fake.ask("POST", SET, Some(json!({"trust": "Red Team"}))).await;
    assert_eq!((code(&wrong).as_str(), &wrong.json()["errors"][0]["pointer"]), ("invalid", &json!("/trust")));
    let wrong = fake.ask("POST", SET, Some(json!({"overcommit_permille": 50}))).await;
    assert_eq!((code(&wrong).as_str(), wrong.status.as_u16()), ("invalid", 422));
    let fault = &wrong.json()["errors"][0];
    assert_eq!(fault["pointer"], "/overcommit_permille");
    assert!(fault["detail"].as_str().unwrap().contains("500 to 5000"), "{fault}");
    for _ in 0..2 {
        assert_eq!(fake.ask("DELETE", "/hosts/h1/memory/policy", None).await.status.as_u16(), 204);
    }
    assert_eq!(
        code(&fake.ask("POST", SET, Some(less.clone())).await),
        "host_unreachable",
        "what was said is taken back"
    );
    assert_eq!(code(&fake.ask("DELETE", "/hosts/h9/memory/policy", None).await), "not_found");
}
