//! Who this host is in its grid: its key, its certificate, and the grid's. Each file is written whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use roost_protocol::codec;
use roost_protocol::enrol::EnrolAnswer;
use roost_protocol::identity::{GridPublic, HostKey, IdentityError, peer_identity};
use roost_protocol::message::Der;
use roost_protocol::transport::Identity;
use roost_protocol::{GridId, HostId};
use tokio::sync::watch;

use crate::files;

/// Longest of these files: a chain of certificates.
const LIMIT: u64 = 64 << 10;

/// Why the identity can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("use the host's key or certificate")]
    Identity(#[from] IdentityError),
    #[error("{0} is damaged; join again")]
    Damaged(PathBuf),
    #[error("the certificate in {0} is not of this host's key; join again")]
    OtherKey(PathBuf),
}

/// What joining gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) host: HostId,
    pub(crate) grid: GridId,
    /// Leaf first.
    pub(crate) chain: Vec<Der>,
    /// The grid's certificate.
    pub(crate) ca: Der,
}

impl Membership {
    /// The grid's public key.
    pub(crate) fn grid_public(&self) -> Result<GridPublic, IdentityError> {
        GridPublic::from_certificate(&self.ca.0)
    }
}

/// The folder with the identity.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// Told of each membership that is kept.
    kept: watch::Sender<()>,
}

impl Store {
    /// Makes the folder where it is missing, for root's eyes only.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let made = files::make_folder(folder, 0o700);
        made.map_err(|source| StoreError::Write { path: folder.into(), source })?;
        Ok(Self { folder: folder.into(), kept: watch::Sender::new(()) })
    }

    /// The host's key; made at the first call.
    pub(crate) fn key(&self) -> Result<HostKey, StoreError> {
        let path = self.folder.join("host.key");
        match self.read(&path)? {
            Some(bytes) => {
                let pem = String::from_utf8(bytes).map_err(|_| StoreError::Damaged(path))?;
                Ok(HostKey::from_pem(&pem)?)
            }
            None => {
                let key = HostKey::generate()?;
                self.keep_key(&key)?;
                Ok(key)
            }
        }
    }

    /// Keeps a key in place of the one before.
    pub(crate) fn keep_key(&self, key: &HostKey) -> Result<(), StoreError> {
        self.write("host.key", key.to_pem().as_bytes())
    }

    /// What this host is a member of, if anything.
    pub(crate) fn membership(&self) -> Result<Option<Membership>, StoreError> {
        let path = self.folder.join("membership");
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        match codec::decode(&bytes) {
            Ok(EnrolAnswer::Accepted { host, chain, grid, ca }) => Ok(Some(Membership { host, grid, chain, ca })),
            Ok(EnrolAnswer::Refused { .. }) | Err(_) => Err(StoreError::Damaged(path)),
        }
    }

    /// Keeps what joining or renewal gave.
    pub(crate) fn keep(&self, membership: &Membership) -> Result<(), StoreError> {
        let Membership { host, grid, chain, ca } = membership.clone();
        // The answer of joining, as it came: one file, one writing.
        self.write("membership", &codec::encode(&EnrolAnswer::Accepted { host, chain, grid, ca }))?;
        self.kept.send_replace(());
        Ok(())
    }

    /// Changes when this program keeps a membership.
    pub(crate) fn kept(&self) -> watch::Receiver<()> {
        self.kept.subscribe()
    }

    /// Certificate and key as a connection wants them.
    pub(crate) fn identity(&self, membership: &Membership) -> Result<Identity, StoreError> {
        let key = self.key()?;
        let path = self.folder.join("membership");
        let leaf = membership.chain.first().ok_or_else(|| StoreError::Damaged(path.clone()))?;
        if peer_identity(&leaf.0)?.key_fingerprint != key.key_fingerprint() {
            return Err(StoreError::OtherKey(path));
        }
        Ok(Identity { chain: membership.chain.clone(), key })
    }

    /// Address of the aggregator that was joined.
    pub(crate) fn aggregator(&self) -> Result<Option<String>, StoreError> {
        let bytes = self.read(&self.folder.join("aggregator"))?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Keeps that address.
    pub(crate) fn keep_aggregator(&self, address: &str) -> Result<(), StoreError> {
        self.write("aggregator", address.as_bytes())
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        files::read_bounded(path, LIMIT).map_err(|source| StoreError::Read { path: path.into(), source })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        files::write_atomically(&path, bytes).map_err(|source| StoreError::Write { path, source })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn key_and_membership_are_there_after_a_restart_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("identity")).unwrap();
        let print = store.key().unwrap().key_fingerprint();
        assert_eq!(store.key().unwrap().key_fingerprint(), print);
        assert_eq!(store.membership().unwrap(), None);
        let (chain, ca) = (vec![Der(vec![1])], Der(vec![2]));
        let membership = Membership { host: HostId::from_u128(1), grid: GridId::from_u128(2), chain, ca };
        store.keep(&membership).unwrap();
        assert_eq!(store.membership().unwrap(), Some(membership.clone()));
        assert!(store.identity(&membership).is_err(), "no certificate");
        store.write("membership", b"garbage").unwrap();
        assert!(matches!(store.membership(), Err(StoreError::Damaged(_))));
    }
}
