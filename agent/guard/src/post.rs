//! Letters of many wards put together, so that few datagrams carry all renewals. What an owner says only once, that it gave
//! a ward up, is sent some more times: were it lost, the next owner would wait for a whole promise.

use std::collections::BTreeMap;

use roost_protocol::{HostId, Millis, Time, codec};
use roost_ward::{LONGEST_PACKET, Letter, MOST_WARDS_IN_PACKET, MemberId, Message, Packet};

/// Letters that wait for the end of a turn; more are lost, as on a network.
const MOST_LETTERS: usize = 4_096;
/// A release is sent again after these: it names its epoch, so that a late one frees nothing later.
const AGAIN: [Millis; 3] = [Millis(100), Millis(300), Millis(700)];

/// Letters to be sent at the end of this turn.
#[derive(Debug, Default)]
pub(crate) struct Post {
    letters: BTreeMap<MemberId, Vec<Letter>>,
    count: usize,
    again: Vec<(Time, MemberId, Letter)>,
}

impl Post {
    pub(crate) fn put(&mut self, now: Time, to: MemberId, letter: Letter) {
        if let Message::Release { .. } = letter.message
            && self.again.len() + AGAIN.len() <= MOST_LETTERS
        {
            self.again.extend(AGAIN.iter().map(|after| (now + *after, to, letter.clone())));
        }
        self.add(to, letter);
    }

    /// When something is to be sent again.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.again.iter().map(|(at, ..)| *at).min()
    }

    /// Puts what is due to be sent again among the letters.
    pub(crate) fn repeat(&mut self, now: Time) {
        for (_, to, letter) in self.again.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>() {
            self.add(to, letter);
        }
    }

    fn add(&mut self, to: MemberId, letter: Letter) {
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
            post.put(Time(0), to, Letter { ward: WardId(u64::MAX - ward), message });
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

    #[test]
    fn a_release_is_said_four_times_and_the_rest_once() {
        let mut post = Post::default();
        let to = MemberId { id: HostId::from_u128(7), incarnation: 3 };
        let letter = |message| Letter { ward: WardId(1), message };
        post.put(Time(1_000), to, letter(Message::Release { epoch: Epoch(4) }));
        post.put(
            Time(1_000),
            to,
            letter(Message::Grant { epoch: Epoch(4), round: Round(1), version: Version::default() }),
        );
        let mut sent = Vec::new();
        let mut now = Time(1_000);
        loop {
            post.repeat(now);
            for (_, body) in post.empty(1) {
                sent.push((now, codec::decode::<Packet>(&body).unwrap().letters.len()));
            }
            let Some(at) = post.deadline() else { break };
            assert!(at > now, "it is not sent again and again");
            now = at;
        }
        assert_eq!(sent, [(Time(1_000), 2), (Time(1_100), 1), (Time(1_300), 1), (Time(1_700), 1)]);
    }
}
