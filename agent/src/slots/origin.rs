//! Where the files of a newer image come from: a folder, an http:// address, or this host's aggregator. None of it need be
//! trusted: what was signed is checked.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use roost_protocol::identity::Fingerprint;
use roost_protocol::image::{ImageFile, ImagePiece};
use roost_protocol::transport::{self, FrameReader, Identity, Purpose};
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::report::identity::Store;
use crate::report::join;

/// The next piece of a file comes sooner, or the aggregator hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of these.
pub(super) enum Origin {
    /// A folder, or an http:// address.
    At(String),
    Aggregator(Box<Aggregator>),
}

/// Where it is, its key, and who asks.
pub(super) struct Aggregator {
    address: String,
    pin: Fingerprint,
    identity: Identity,
}

impl Origin {
    /// This host's aggregator.
    pub(super) fn aggregator(config: &Config) -> anyhow::Result<Self> {
        let folder = config.identity();
        let store = Store::open(&folder).with_context(|| format!("open {}", folder.display()))?;
        Self::of(&store, config.aggregator.as_deref())
    }

    /// `address`: from the settings; else the one that was joined.
    fn of(store: &Store, address: Option<&str>) -> anyhow::Result<Self> {
        let Some(membership) = store.membership().context("read which grid this host is of")? else {
            bail!("this host has not joined, and no update= was answered at boot: say where from");
        };
        let joined = store.aggregator().context("read which aggregator was joined")?;
        let address = address.map(str::to_owned).or(joined).context("no aggregator is known: say where from")?;
        let pin = membership.grid_public().context("use the grid's certificate")?.fingerprint();
        let identity = store.identity(&membership).context("use this host's certificate")?;
        Ok(Self::Aggregator(Box::new(Aggregator { address, pin, identity })))
    }

    /// One file of an image, by its name.
    pub(super) fn open(&self, file: &str) -> anyhow::Result<Box<dyn Read>> {
        match self {
            Self::Aggregator(aggregator) => {
                let named = ImageFile::ALL.into_iter().find(|known| known.name() == file);
                Ok(Box::new(aggregator.open(named.with_context(|| format!("no image has a file {file}"))?)?))
            }
            Self::At(at) => {
                let at = format!("{}/{file}", at.trim_end_matches('/'));
                if !at.starts_with("http://") {
                    return Ok(Box::new(fs::File::open(&at).with_context(|| format!("open {at}"))?));
                }
                let mut wget = Command::new("wget");
                wget.args(["-q", "-T", "30", "-O", "-", &at]).stdin(Stdio::null()).stdout(Stdio::piped());
                Ok(Box::new(Fetched(wget.spawn().context("run wget")?)))
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.write_str(at),
            Self::Aggregator(aggregator) => write!(f, "the aggregator {}", aggregator.address),
        }
    }
}

impl Aggregator {
    fn open(&self, file: ImageFile) -> anyhow::Result<Pieces> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        let reader = runtime.block_on(self.ask(file))?;
        Ok(Pieces { runtime, reader, piece: Vec::new(), at: 0, ended: false })
    }

    async fn ask(&self, file: ImageFile) -> anyhow::Result<FrameReader> {
        let endpoint = transport::client_endpoint()?;
        let mut failed = anyhow!("{} has no address", self.address);
        for address in join::resolve(&self.address).await? {
            match transport::connect(&endpoint, address, Purpose::Image, self.pin, Some(&self.identity)).await {
                Err(error) => failed = error.into(),
                Ok(connection) => {
                    let (reader, mut writer) = transport::open(&connection).await?;
                    writer.send(&file).await?;
                    return Ok(reader);
                }
            }
        }
        Err(failed.context("ask the aggregator for an image (an older one serves none)"))
    }
}

/// A file from the aggregator, piece by piece.
struct Pieces {
    runtime: Runtime,
    reader: FrameReader,
    piece: Vec<u8>,
    /// So much of the piece was read.
    at: usize,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            self.at = 0;
            let next = self.runtime.block_on(self.reader.recv_within(PATIENCE));
            self.piece = match next.map_err(io::Error::other)? {
                ImagePiece::Bytes(bytes) => bytes,
                ImagePiece::End => {
                    self.ended = true;
                    Vec::new()
                }
                ImagePiece::Failed { why } => return Err(io::Error::other(why)),
            };
        }
        let left = &self.piece[self.at..];
        let read = left.len().min(into.len());
        into[..read].copy_from_slice(&left[..read]);
        self.at += read;
        Ok(read)
    }
}

/// What wget brings; it ends when nobody reads.
struct Fetched(Child);

impl Read for Fetched {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0.stdout {
            Some(out) => out.read(into),
            None => Ok(0),
        }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[cfg(test)]
mod test {
    use std::net::Ipv4Addr;

    use roost_protocol::HostId;
    use roost_protocol::identity::{GridKey, HOST_LIFETIME};
    use roost_protocol::transport::Listener;

    use super::*;
    use crate::report::identity::Membership;
    use crate::report::link::wall;

    /// What an aggregator answers, in this order, to one who asks for a file.
    fn read(answers: Vec<ImagePiece>) -> anyhow::Result<Vec<u8>> {
        let (grid, dir) = (GridKey::generate()?, tempfile::tempdir()?);
        let store = Store::open(&dir.path().join("identity"))?;
        let host = HostId::from_u128(5);
        let chain = grid.issue_host(&store.key()?.csr()?, host, HOST_LIFETIME, wall())?;
        assert!(Origin::of(&store, None).is_err(), "it is of no grid");
        store.keep(&Membership { host, grid: grid.grid_id(), chain, ca: grid.ca_certificate().clone() })?;
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(async { Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), &grid, wall()) })?;
        let address = listener.endpoint().local_addr()?.to_string();
        let serving = runtime.spawn(async move {
            let peer = listener.accept().await.unwrap().finish().await.unwrap();
            assert_eq!((peer.purpose, peer.identity.as_ref().unwrap().host), (Purpose::Image, host));
            let (mut reader, mut writer) = peer.accept().await.unwrap();
            assert_eq!(reader.recv_within::<ImageFile>(PATIENCE).await.unwrap(), ImageFile::Kernel);
            for answer in answers {
                writer.send(&answer).await.unwrap();
            }
            let _hung_up = writer.finish().await;
        });
        let origin = Origin::of(&store, Some(&address))?;
        assert!(origin.open("../host.key").is_err());
        let mut bytes = Vec::new();
        let ended = origin.open("vmlinuz")?.read_to_end(&mut bytes);
        runtime.block_on(serving)?;
        ended?;
        Ok(bytes)
    }

    #[test]
    fn a_file_comes_from_the_aggregator_piece_by_piece_up_to_its_end() {
        let piece = |byte: u8| ImagePiece::Bytes(vec![byte; 100_000]);
        let whole = read(vec![piece(1), ImagePiece::Bytes(Vec::new()), piece(2), ImagePiece::End]).unwrap();
        assert_eq!(whole, [vec![1; 100_000], vec![2; 100_000]].concat());
        assert!(read(vec![piece(1)]).is_err(), "it was cut short");
        let why = read(vec![piece(1), ImagePiece::Failed { why: "the disk is broken".into() }]).unwrap_err();
        assert!(why.to_string().contains("the disk is broken"), "{why}");
    }
}
