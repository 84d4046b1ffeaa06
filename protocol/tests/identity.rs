//! Keys, certificates, and requests of rogue hosts.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use roost_protocol::identity::{
    Fingerprint, GridKey, GridPublic, HOST_LIFETIME, HostKey, IdentityError, NAMES, REQUEST, SERVER_NAME, peer_identity,
};
use roost_protocol::{HostId, Stamp};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const NOW: Stamp = Stamp(1_893_456_000_000);

#[test]
fn a_key_read_back_from_its_file_is_the_same_grid_and_verifies_what_was_issued_before() {
    let first = GridKey::generate().unwrap();
    let again = GridKey::from_pem(&first.to_pem()).unwrap();
    assert_eq!((first.grid_id(), first.fingerprint()), (again.grid_id(), again.fingerprint()));
    let chain =
        first.issue_host(&HostKey::generate().unwrap().csr().unwrap(), HostId::from_u128(1), HOST_LIFETIME, NOW);
    let chain = chain.unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0].0).unwrap();
    let (_, authority) = X509Certificate::from_der(&again.ca_certificate().0).unwrap();
    leaf.verify_signature(Some(authority.public_key())).unwrap();
    authority.verify_signature(None).unwrap();
    assert_eq!(leaf.issuer(), authority.subject());
    assert_eq!(GridPublic::from_certificate(&chain[1].0).unwrap(), again.public().unwrap());
}

#[test]
fn names_and_rights_in_a_request_are_ignored() {
    let grid = GridKey::generate().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(vec![SERVER_NAME.to_owned(), "*.example.org".to_owned()]).unwrap();
    wish.distinguished_name.push(DnType::CommonName, "roost-aggregator");
    wish.subject_alt_names.push(SanType::URI("roost:x/host/y".try_into().unwrap()));
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    let request = wish.serialize_request(&key).unwrap();

    let host = HostId::from_u128(5);
    let chain = grid.issue_host(request.der(), host, HOST_LIFETIME, NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0].0).unwrap();
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    let name = format!("roost:{}/host/{host}", grid.grid_id());
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.as_slice(), [GeneralName::URI(&name)]);
    assert_eq!(leaf.subject().to_string(), format!("CN={host}"));
    assert_eq!(peer_identity(&chain[0].0).unwrap().host, host);
}

#[test]
fn a_request_must_be_signed_by_its_own_key_and_of_our_kind() {
    let grid = GridKey::generate().unwrap();
    let issue = |request: &[u8]| grid.issue_host(request, HostId::from_u128(1), HOST_LIFETIME, NOW).unwrap_err();
    let mut changed = HostKey::generate().unwrap().csr().unwrap();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(issue(&changed), IdentityError::RequestProof | IdentityError::Request(_)));
    for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(kind).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        assert!(matches!(issue(request.der()), IdentityError::RequestProof));
    }
    assert!(matches!(issue(&vec![0x30; REQUEST + 1]), IdentityError::RequestSize(_)));
    assert!(matches!(issue(&[]), IdentityError::Request(_)));
    assert!(matches!(issue(&[0x30; REQUEST]), IdentityError::Request(_)));
}

#[test]
fn a_certificate_begins_a_day_early_and_its_dates_are_shown() {
    let grid = GridKey::generate().unwrap();
    let key = HostKey::generate().unwrap();
    let chain = grid.issue_host(&key.csr().unwrap(), HostId::from_u128(1), HOST_LIFETIME, NOW).unwrap();
    let shown = peer_identity(&chain[0].0).unwrap();
    assert_eq!(shown.not_before, Stamp(NOW.0 - 86_400_000));
    assert_eq!(shown.not_after, Stamp(NOW.0 + HOST_LIFETIME.0));
    assert_eq!(shown.key_fingerprint, key.key_fingerprint());
    assert_eq!(shown.grid, grid.grid_id());
}

#[test]
fn the_aggregators_certificate_has_names_and_addresses_and_is_no_hosts() {
    let grid = GridKey::generate().unwrap();
    let names = ["grid.example.org".to_owned(), "192.0.2.7".to_owned(), "2001:db8::7".to_owned()];
    let own = grid.issue_server(&names, NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&own.chain[0].0).unwrap();
    let shown = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(shown.contains(&GeneralName::DNSName(SERVER_NAME)) && shown.contains(&GeneralName::DNSName(&names[0])));
    assert!(shown.contains(&GeneralName::IPAddress(&[192, 0, 2, 7])));
    assert_eq!(shown.len(), 4);
    assert!(matches!(peer_identity(&own.chain[0].0), Err(IdentityError::NoHost)));
    assert!(matches!(grid.issue_server(&vec!["a".into(); NAMES + 1], NOW), Err(IdentityError::TooManyNames { .. })));
    assert!(matches!(grid.issue_server(&["ä".into()], NOW), Err(IdentityError::Name { .. })));
}

#[test]
fn keys_are_not_printed_and_fingerprints_survive_text() {
    let (grid, host) = (GridKey::generate().unwrap(), HostKey::generate().unwrap());
    assert_eq!(format!("{grid:?}"), format!("GridKey({})", grid.grid_id()));
    assert_eq!(format!("{host:?}"), format!("HostKey({})", host.key_fingerprint()));
    assert_eq!(host.key_fingerprint().to_string().parse::<Fingerprint>().unwrap(), host.key_fingerprint());
    for wrong in ["", "zz", &"g".repeat(64), &"ä".repeat(32), &"0".repeat(65)] {
        assert!(wrong.parse::<Fingerprint>().is_err());
    }
    assert_eq!(HostKey::from_pem(&host.to_pem()).unwrap().key_fingerprint(), host.key_fingerprint());
}

#[test]
fn other_keys_and_texts_are_not_taken_for_a_key() {
    assert!(matches!(GridKey::from_pem("no key"), Err(IdentityError::Key(_))));
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    assert!(matches!(GridKey::from_pem(&other), Err(IdentityError::KeyKind)));
}

#[test]
fn mutated_certificates_never_panic() {
    let grid = GridKey::generate().unwrap();
    let chain = grid.issue_host(&HostKey::generate().unwrap().csr().unwrap(), HostId::from_u128(1), HOST_LIFETIME, NOW);
    let good = chain.unwrap()[0].0.clone();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            let _shown = peer_identity(&bad);
        }
        let _cut = peer_identity(&good[..at]);
    }
}
