//! The ward's words on the wire: they survive it, and a datagram holds what it must.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use roost_protocol::{Epoch, HostId, Millis, codec};
use roost_ward::{
    Ballot, Candidacy, Council, Councils, Denial, Letter, MOST_WARDS_IN_PACKET, MemberId, Message, Packet, Policy,
    Profile, Round, Version, WardId,
};

fn member(number: u128) -> MemberId {
    MemberId::first(HostId::from_u128(number << 64 | 0x1234_5678))
}

fn councils(members: u128) -> Councils {
    let members: Vec<MemberId> = (1..=members).map(member).collect();
    let homes = members.clone();
    Councils::settled(Council::new(members, homes, Policy::Strict, Profile::Normal).unwrap())
}

fn packet(letters: Vec<Letter>) -> Packet {
    Packet { incarnation: 1, to_incarnation: 0, letters }
}

fn all() -> Vec<Message> {
    let (epoch, round, version) = (Epoch(70_000), Round(9_000_000_000), Version { epoch: Epoch(70_000), number: 2 });
    let candidacy = Candidacy { epoch, newest: version };
    vec![
        Message::Renew { epoch, round, version, settled: true, councils: None },
        Message::Renew { epoch, round, version, settled: false, councils: Some(Box::new(councils(5))) },
        Message::Grant { epoch, round, version },
        Message::Refuse { epoch, why: Denial::Promised(Millis(21_999)), councils: Some(Box::new(councils(3))) },
        Message::Refuse { epoch, why: Denial::Behind, councils: None },
        Message::Ask(candidacy),
        Message::Would { epoch, in_force: version, cold: true },
        Message::Stand(candidacy),
        Message::Vote { epoch, in_force: version },
        Message::Release { epoch },
        Message::Fenced { owner: member(7), epoch },
    ]
}

#[test]
fn every_message_survives_the_wire() {
    let letters = all().into_iter().map(|message| Letter { ward: WardId(300), message }).collect();
    let packet = packet(letters);
    assert_eq!(codec::decode::<Packet>(&codec::encode(&packet)).unwrap(), packet);
}

#[test]
fn a_ballot_survives_the_store() {
    let ballot = Ballot { epoch: Epoch(3), won: Epoch(2), ..Ballot::first(councils(3).newest) };
    assert_eq!(codec::decode::<Ballot>(&codec::encode(&ballot)).unwrap(), ballot);
}

#[test]
fn a_datagram_renews_as_many_wards_as_it_says() {
    let days_100 = Round(100 * 86_400_000);
    let version = Version { epoch: Epoch(200), number: 1 };
    let renew = Message::Renew { epoch: Epoch(200), round: days_100, version, settled: true, councils: None };
    let wards = u64::try_from(MOST_WARDS_IN_PACKET).unwrap();
    let letters = (0..wards).map(|ward| Letter { ward: WardId(60_000 + ward), message: renew.clone() });
    let bytes = codec::encode(&packet(letters.collect())).len();
    assert!(bytes <= roost_ward::LONGEST_PACKET, "{bytes} bytes");
}

#[test]
fn the_longest_message_fits_a_datagram() {
    let longest =
        all().into_iter().map(|message| codec::encode(&packet(vec![Letter { ward: WardId(u64::MAX), message }])).len());
    assert!(longest.max().unwrap() <= roost_ward::LONGEST_PACKET);
}
