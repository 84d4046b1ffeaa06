//! A host fetches a file of the host image that lies in the aggregator's data folder. Nothing here looks into it: it is
//! as good as its signature, which the host checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quinn::Connection;
use roost_protocol::HostId;
use roost_protocol::image::{ImageFile, ImagePiece, PIECE};
use roost_protocol::transport::{CloseCode, FIRST_MESSAGE, FrameWriter, Peer, TransportError};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// The folder with the image that hosts are to have, and who fetches a file now.
#[derive(Debug)]
pub(super) struct Desk {
    folder: PathBuf,
    fetching: Mutex<BTreeMap<HostId, Connection>>,
}

impl Desk {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, fetching: Mutex::default() }
    }

    /// One question, one file. A host has one place: what it still fetched on another connection ends.
    pub(super) async fn serve(&self, peer: &Peer, host: HostId) -> Result<(), TransportError> {
        let before = self.fetching().insert(host, peer.connection.clone());
        if let Some(before) = before {
            before.close(CloseCode::Replaced.into(), b"this host asked for another file");
        }
        let served = serve(peer, &self.folder).await;
        let mut fetching = self.fetching();
        if fetching.get(&host).is_some_and(|newest| newest.stable_id() == peer.connection.stable_id()) {
            fetching.remove(&host);
        }
        served
    }

    fn fetching(&self) -> MutexGuard<'_, BTreeMap<HostId, Connection>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(peer: &Peer, folder: &Path) -> Result<(), TransportError> {
    let (mut reader, mut writer) = peer.accept().await?;
    let file: ImageFile = reader.recv_within(FIRST_MESSAGE).await?;
    let path = folder.join(file.name());
    let last = match send(&mut writer, &path).await? {
        Ok(()) => ImagePiece::End,
        Err(error) => ImagePiece::Failed { why: format!("the aggregator has no image: {}: {error}", path.display()) },
    };
    writer.send(&last).await?;
    // The host may hang up as soon as it has the end.
    let _hung_up = writer.finish().await;
    peer.connection.close(CloseCode::Done.into(), b"answered");
    Ok(())
}

/// All of it; inside: why the file can't be read.
async fn send(writer: &mut FrameWriter, path: &Path) -> Result<std::io::Result<()>, TransportError> {
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece).await {
            Ok(0) => return Ok(Ok(())),
            Ok(read) => piece.truncate(read),
            Err(error) => return Ok(Err(error)),
        }
        writer.send(&ImagePiece::Bytes(piece)).await?;
    }
}
