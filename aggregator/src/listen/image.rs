//! A host fetches a file of the host image that lies in the aggregator's data folder. Nothing here looks into it: it is
//! as good as its signature, which the host checks.

use std::path::Path;

use roost_protocol::image::{ImageFile, ImagePiece, PIECE};
use roost_protocol::transport::{CloseCode, FIRST_MESSAGE, FrameWriter, Peer, TransportError};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// One question, one file of this folder.
pub(super) async fn serve(peer: &Peer, folder: &Path) -> Result<(), TransportError> {
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
