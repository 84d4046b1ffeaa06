//! Letters of many wards put together, so that few datagrams carry all renewals.

use std::collections::BTreeMap;

use roost_protocol::{HostId, codec};
use roost_ward::{LONGEST_PACKET, Letter, MOST_WARDS_IN_PACKET, MemberId, Packet};

/// Letters that wait for the end of a turn; more are lost, as on a network.
const MOST_LETTERS: usize = 4_096;

/// Letters to be sent at the end of this turn.
#[derive(Debug, Default)]
pub(crate) struct Post {
    letters: BTreeMap<MemberId, Vec<Letter>>,
    count: usize,
}

impl Post {
    pub(crate) fn put(&mut self, to: MemberId, letter: Letter) {
        if self.count < MOST_LETTERS {
            self.letters.entry(to).or_default().push(letter);
            self.count += 1;
        }
    }

    /// All of them, in bodies of datagrams.
    pub(crate) fn empty(&mut self, incarnation: u32) -> Vec<(HostId, Vec<u8>)> {
        self.count = 0;
        let mut out = Vec::new();
        for (to, letters) in std::mem::take(&mut self.letters) {
            for some in letters.chunks(MOST_WARDS_IN_PACKET) {
                pack(incarnation, to, some, &mut out);
            }
        }
        out
    }
}

/// Halves what is too long; one letter that is too long alone is left out.
fn pack(incarnation: u32, to: MemberId, letters: &[Letter], out: &mut Vec<(HostId, Vec<u8>)>) {
    let packet = Packet { incarnation, to_incarnation: to.incarnation, letters: letters.to_vec() };
    let bytes = codec::encode(&packet);
    if bytes.len() <= LONGEST_PACKET {
        out.push((to.id, bytes));
    } else if let (half, 2..) = (letters.len() / 2, letters.len()) {
        pack(incarnation, to, &letters[..half], out);
        pack(incarnation, to, &letters[half..], out);
    } else {
        tracing::error!(%to, bytes = bytes.len(), "a letter is too long to be sent");
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::Epoch;
    use roost_ward::{Message, Round, Version, WardId};

    use super::*;

    #[test]
    fn all_letters_travel_and_no_datagram_is_too_long() {
        let mut post = Post::default();
        let to = MemberId { id: HostId::from_u128(7), incarnation: 3 };
        for ward in 0..300 {
            let version = Version { epoch: Epoch(u64::MAX), number: u32::MAX };
            let message = Message::Grant { epoch: Epoch(u64::MAX), round: Round(u64::MAX), version };
            post.put(to, Letter { ward: WardId(u64::MAX - ward), message });
        }
        let bodies = post.empty(1);
        let mut wards = Vec::new();
        for (host, body) in &bodies {
            assert!(*host == to.id && body.len() <= LONGEST_PACKET);
            let packet: Packet = codec::decode(body).unwrap();
            assert_eq!((packet.incarnation, packet.to_incarnation), (1, 3));
            wards.extend(packet.letters.iter().map(|letter| letter.ward));
        }
        assert_eq!(wards, (0..300).map(|ward| WardId(u64::MAX - ward)).collect::<Vec<_>>());
        assert!(post.empty(1).is_empty());
    }
}
