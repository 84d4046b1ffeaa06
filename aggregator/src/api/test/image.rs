//! Searches for newer images and restarts of hosts, as far as they are refused here: the rest is the hosts'.

use axum::http::StatusCode;
use roost_aggregator_core::Call;

use super::code;
use crate::api::fake::{Fake, host};

#[tokio::test]
async fn a_host_is_restarted_only_in_maintenance_and_where_nothing_is_up() {
    let fake = Fake::new();
    let reboot = async |host: &str| fake.ask("POST", &format!("/hosts/{host}/actions/reboot"), None).await;
    let refused = reboot("h1").await;
    assert_eq!((code(&refused).as_str(), refused.status), ("wrong_state", StatusCode::CONFLICT));
    assert!(refused.text.contains("not in maintenance"), "{}", refused.text);
    fake.called(Call::Maintenance { host: host(1), drain: Some(false) });
    let refused = reboot("h1").await;
    assert!(refused.text.contains("of its guests are up"), "{}", refused.text);
    assert_eq!(code(&reboot("h9").await), "not_found");
    let xml = fake.call("host.reboot", &[&fake.token, "h1"]).await;
    assert!(xml.contains("of its guests are up"), "{xml}");
}

#[tokio::test]
async fn a_host_that_is_not_connected_can_not_look_for_an_image_and_it_is_said() {
    let fake = Fake::new();
    assert_eq!(code(&fake.ask("POST", "/hosts/h1/actions/fetch-image", None).await), "host_unreachable");
    assert_eq!(code(&fake.ask("POST", "/hosts/h9/actions/fetch-image", None).await), "not_found");
}
