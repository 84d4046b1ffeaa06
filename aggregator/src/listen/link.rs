//! One host's link: its first words, then what it says to the driver and what the driver says to it. A host that breaks
//! the protocol or a quota is told so and cut off; a slow one waits for itself alone.

use std::sync::{Arc, OnceLock};

use roost_aggregator_core::event::LinkId;
use roost_aggregator_core::intent::Intent;
use roost_protocol::host::HostFacts;
use roost_protocol::identity::{PeerIdentity, request_fingerprint};
use roost_protocol::message::{Refusal, TEXT, ToAgent, ToAggregator};
use roost_protocol::transport::{self, CloseCode, FIRST_MESSAGE, FrameReader, FrameWriter, Peer, TransportError};
use roost_protocol::{codec, document};
use tokio::sync::mpsc;

use super::Shared;
use super::limit::Bucket;
use crate::clock::wall;
use crate::driver::{FromLink, LastWord, TO_LINK, ToLink, misbehaved};

/// Messages a host may send at once: a snapshot, a document and an outcome for each of 512 guests.
const BURST: u64 = 600;
/// And 20 per second in the long run; an agent sends one each second when much happens.
const PER_MINUTE: u64 = 20 * 60;
/// What costs more than others counts for more: at most one of these per second.
const HEAVY: u64 = 20;
/// Addresses of a host that are kept.
const ADDRESSES: usize = 64;

/// What ends a link, as events show it.
type Why = String;

/// Serves a host until its connection ends.
pub(super) async fn serve(peer: &Peer, identity: &PeerIdentity, shared: &Shared) -> Result<(), TransportError> {
    let (mut reader, writer) = peer.accept().await?;
    let mut hello = match reader.recv_within(FIRST_MESSAGE).await? {
        ToAggregator::Hello(hello) => hello,
        ToAggregator::Snapshot(_)
        | ToAggregator::Beat(_)
        | ToAggregator::Outcome(_)
        | ToAggregator::Progress(_)
        | ToAggregator::Points(_)
        | ToAggregator::Renew { .. }
        | ToAggregator::Document { .. } => {
            let last_word = OnceLock::from(misbehaved("the first message must be Hello"));
            write(peer.connection.clone(), writer, mpsc::channel(1).1, Arc::new(last_word)).await;
            return Ok(());
        }
    };
    shorten(&mut hello.facts);
    let (to, from_driver) = mpsc::channel(TO_LINK);
    let last_word = LastWord::default();
    let link = Link { id: shared.next_link(), identity, shared, to: to.downgrade(), last_word: Arc::clone(&last_word) };
    let greeting = FromLink::Hello {
        link: link.id,
        key: identity.key_fingerprint.0,
        certified: identity.grid == shared.handle.key.grid_id() && identity.host == hello.host,
        hello: Box::new(hello),
        remote: peer.connection.remote_address().to_string(),
        to: ToLink { queue: to, last_word: Arc::clone(&last_word), connection: peer.connection.clone() },
    };
    if shared.driver.send(greeting).await.is_err() {
        return Ok(());
    }
    transport::trust(&peer.connection, &mut reader);
    let writing = tokio::spawn(write(peer.connection.clone(), writer, from_driver, last_word));
    let why = link.read(&mut reader).await;
    // Both fail only when the aggregator stops.
    drop(shared.driver.send(FromLink::Closed { link: link.id, why }).await);
    drop(writing.await);
    Ok(())
}

/// Sends until nothing more comes, says the last word if there is one, and closes the connection.
async fn write(
    connection: quinn::Connection,
    mut writer: FrameWriter,
    mut from: mpsc::Receiver<Arc<ToAgent>>,
    last_word: LastWord,
) {
    while let Some(message) = from.recv().await {
        if let Err(error) = writer.send(message.as_ref()).await {
            return connection.close(CloseCode::Misbehaved.into(), crate::chain(&error).as_bytes());
        }
    }
    let Some(refused) = last_word.get() else {
        return connection.close(CloseCode::Done.into(), b"closed by the aggregator");
    };
    // The words matter more than a clean end.
    drop(writer.send(&ToAgent::Refused(refused.clone())).await);
    drop(writer.finish().await);
    connection.close(close_code(refused.reason).into(), refused.text.as_bytes());
}

fn close_code(reason: Refusal) -> CloseCode {
    match reason {
        Refusal::Replaced => CloseCode::Replaced,
        Refusal::Version | Refusal::Removed | Refusal::UnknownKey => CloseCode::Done,
        Refusal::Misbehaved => CloseCode::Misbehaved,
    }
}

struct Link<'a> {
    id: LinkId,
    identity: &'a PeerIdentity,
    shared: &'a Shared,
    /// Weak, so that the driver can end the link by dropping its own.
    to: mpsc::WeakSender<Arc<ToAgent>>,
    last_word: LastWord,
}

impl Link<'_> {
    async fn read(&self, reader: &mut FrameReader) -> Why {
        let mut quota = Bucket::full(BURST, PER_MINUTE, self.shared.clock.now());
        loop {
            let message: ToAggregator = match reader.recv().await {
                Ok(message) => message,
                Err(error) if error.misbehaved() => return self.refuse(&crate::chain(&error)),
                Err(error) => return crate::chain(&error),
            };
            if !quota.take(self.shared.clock.now(), cost(&message)) {
                return self.refuse("it sends more than 20 messages per second");
            }
            if let Err(why) = self.heard(message).await {
                return why;
            }
        }
    }

    async fn heard(&self, mut message: ToAggregator) -> Result<(), Why> {
        if let ToAggregator::Beat(beat) = &mut message {
            beat.facts.iter_mut().for_each(|facts| shorten(facts));
        }
        match message {
            ToAggregator::Hello(_) => Err(self.refuse("it said Hello twice")),
            ToAggregator::Renew { request } => self.renew(&request).await,
            ToAggregator::Document { sealed } => match self.open(&sealed) {
                Ok(intent) => self.tell(FromLink::Document { link: self.id, intent: Box::new(intent) }).await,
                Err(why) => {
                    // A damaged copy is no reason to lose sight of the host.
                    tracing::warn!(host = %self.identity.host, "a host offers a grid document that is none: {why}");
                    Ok(())
                }
            },
            ToAggregator::Snapshot(_)
            | ToAggregator::Beat(_)
            | ToAggregator::Outcome(_)
            | ToAggregator::Progress(_)
            | ToAggregator::Points(_) => {
                self.tell(FromLink::Received { link: self.id, message: Box::new(message) }).await
            }
        }
    }

    async fn tell(&self, what: FromLink) -> Result<(), Why> {
        self.shared.driver.send(what).await.map_err(|_| "the aggregator stops".to_owned())
    }

    fn open(&self, sealed: &[u8]) -> Result<Intent, Why> {
        let (generation, plain) =
            document::open(&self.shared.handle.key, sealed).map_err(|error| crate::chain(&error))?;
        let intent: Intent = codec::decode(&plain).map_err(|error| crate::chain(&error))?;
        match intent.generation == generation {
            true => Ok(intent),
            false => Err(format!("its envelope says generation {generation}, its content {}", intent.generation)),
        }
    }

    /// A new certificate for the very key that this connection was made with.
    async fn renew(&self, request: &[u8]) -> Result<(), Why> {
        let (host, key) = (self.identity.host, self.identity.key_fingerprint);
        if request_fingerprint(request).map_err(|error| self.refuse(&crate::chain(&error)))? != key {
            return Err(self.refuse("it asks for a certificate for another key"));
        }
        let known = self.shared.handle.read(move |grid, _, _| {
            grid.intent().hosts.get(&host).is_some_and(|record| record.key == key.0 && record.removed.is_none())
        });
        if !known.await.map_err(|away| away.to_string())? {
            tracing::warn!(%host, "a host that the grid does not know yet asks for a certificate; it will ask again");
            return Ok(());
        }
        let issued = self.shared.handle.key.issue_host(request, host, self.shared.host_lifetime, wall());
        let chain = issued.map_err(|error| self.refuse(&crate::chain(&error)))?;
        if let Some(to) = self.to.upgrade() {
            // A full queue means that the driver is about to close the link.
            drop(to.try_send(Arc::new(ToAgent::Certificate { chain })));
        }
        Ok(())
    }

    fn refuse(&self, why: &str) -> Why {
        tracing::warn!(host = %self.identity.host, "a host is cut off: {why}");
        self.last_word.get_or_init(|| misbehaved(why));
        format!("cut off: {why}")
    }
}

fn cost(message: &ToAggregator) -> u64 {
    match message {
        ToAggregator::Snapshot(_) | ToAggregator::Renew { .. } | ToAggregator::Document { .. } => HEAVY,
        ToAggregator::Hello(_)
        | ToAggregator::Beat(_)
        | ToAggregator::Outcome(_)
        | ToAggregator::Progress(_)
        | ToAggregator::Points(_) => 1,
    }
}

/// What people read is bounded; of what is compared, a kernel's boot id is far shorter.
fn shorten(facts: &mut HostFacts) {
    let texts =
        [&mut facts.name, &mut facts.agent_version, &mut facts.boot_id, &mut facts.hypervisor, &mut facts.kernel];
    facts.addresses.truncate(ADDRESSES);
    let image = facts.image.iter_mut().flat_map(|image| {
        let next = image.next.as_mut().map(|next| &mut next.version);
        [Some(&mut image.version), image.slot.as_mut(), next].into_iter().flatten()
    });
    let maybe = facts.peer_listen.iter_mut().chain(&mut facts.system).chain(image);
    for text in texts.into_iter().chain(&mut facts.addresses).chain(maybe) {
        if let Some((end, _)) = text.char_indices().nth(TEXT) {
            text.truncate(end);
        }
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::host::{NextImage, RunningImage};

    use super::*;

    #[test]
    fn every_text_of_a_host_s_facts_is_cut() {
        let long = || "x".repeat(TEXT + 1);
        let next = Some(NextImage { version: long(), ..NextImage::default() });
        let image = Some(RunningImage { version: long(), slot: Some(long()), next, ..RunningImage::default() });
        let addresses = vec![long(); ADDRESSES + 1];
        let mut facts = HostFacts { name: long(), system: Some(long()), addresses, image, ..HostFacts::default() };
        shorten(&mut facts);
        assert!(!format!("{facts:?}").contains(&long()));
        assert_eq!(facts.addresses.len(), ADDRESSES);
    }
}
