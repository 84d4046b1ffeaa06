//! The client against the real qemu-nbd and against garbage; the server against our client and against qemu-img.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::client::{Client, Extent, NbdError};
use super::server::{Exports, Image, Server};
use super::wire;

const MIB: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let status = Command::new(program).args(arguments).current_dir(folder).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// qemu-nbd on a disk with data at 1 MiB and at 9 MiB, the second written after bitmap `b` was begun.
struct Nbd(Child, tempfile::TempDir);

impl Nbd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("qemu-img", &["create", "-q", "-f", "qcow2", "d.qcow2", "16M"], dir.path());
        run("qemu-io", &["-c", "write -P 17 1M 2M", "d.qcow2"], dir.path());
        run("qemu-img", &["bitmap", "--add", "d.qcow2", "b"], dir.path());
        run("qemu-io", &["-c", "write -P 18 9M 64k", "d.qcow2"], dir.path());
        let mut child = Command::new("qemu-nbd")
            .args(["--read-only", "--persistent", "-f", "qcow2", "-B", "b", "-x", "vda", "-k"])
            .args([dir.path().join("s"), dir.path().join("d.qcow2")])
            .spawn()
            .unwrap();
        while UnixStream::connect(dir.path().join("s")).is_err() {
            assert_eq!(child.try_wait().unwrap(), None);
            std::thread::yield_now();
        }
        Self(child, dir)
    }

    fn connect(&self, export: &str, bitmap: Option<&str>) -> Result<Client, NbdError> {
        Client::connect(&self.1.path().join("s"), export, bitmap)
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn map(client: &mut Client) -> Vec<(u64, u64, bool, bool)> {
    let (mut at, mut all) = (0, Vec::new());
    while at < client.size() {
        for Extent { offset, length, zero, dirty } in client.extents(at).unwrap() {
            assert_eq!(offset, at);
            at += length;
            all.push((offset, length, zero, dirty));
        }
    }
    all
}

#[test]
fn qemu_nbd_tells_what_is_data_and_what_changed_and_reads_back_equal() {
    let nbd = Nbd::start();
    let mut client = nbd.connect("vda", Some("qemu:dirty-bitmap:b")).unwrap();
    assert_eq!((client.size(), client.has_bitmap()), (16 * MIB, true));
    let end = 9 * MIB + 65_536;
    assert_eq!(
        map(&mut client),
        [
            (0, MIB, true, false),
            (MIB, 2 * MIB, false, false),
            (3 * MIB, 6 * MIB, true, false),
            (9 * MIB, 65_536, false, true),
            (end, 16 * MIB - end, true, false),
        ]
    );
    let mut disk = vec![9u8; 16 << 20];
    let ranges = [(0, 3 * MIB + 1), (3 * MIB + 1, 13 * MIB - 1)];
    client
        .read::<NbdError>(ranges.into_iter(), |at, part| {
            let at = usize::try_from(at).unwrap();
            disk[at..at + part.len()].copy_from_slice(part);
            Ok(())
        })
        .unwrap();
    let wanted = |at: u64| match at {
        at if (MIB..3 * MIB).contains(&at) => 17,
        at if (9 * MIB..end).contains(&at) => 18,
        _ => 0,
    };
    assert!(disk.iter().zip(0..).all(|(byte, at)| *byte == wanted(at)));
    drop(client);
    // One client at a time.
    assert!(!nbd.connect("vda", Some("qemu:dirty-bitmap:none")).unwrap().has_bitmap());
    assert!(matches!(nbd.connect("none", None), Err(NbdError::Refused { .. })));
}

#[test]
fn a_read_beyond_the_end_is_an_error_and_a_silent_server_is_given_up() {
    let nbd = Nbd::start();
    let mut client = nbd.connect("vda", None).unwrap();
    assert!(client.read::<NbdError>([(16 * MIB, 4_096)].into_iter(), |_, _| Ok(())).is_err());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert!(matches!(Client::over(ours, "vda", None, Duration::from_millis(50)), Err(NbdError::Io(_))));
}

/// All that a server says up to the transmission, for a disk of this size.
fn handshake(size: u64) -> Vec<u8> {
    let mut out = wire::HELLO.to_be_bytes().to_vec();
    out.extend(wire::OPTION.to_be_bytes());
    out.extend([0, 3]);
    out.extend(wire::option_reply(wire::OPT_STRUCTURED, wire::REP_ACK, &[]));
    out.extend(wire::option_reply(wire::OPT_SET_META, wire::REP_META, b"\0\0\0\x07base:allocation"));
    out.extend(wire::option_reply(wire::OPT_SET_META, wire::REP_ACK, &[]));
    let mut info = vec![0, 0];
    info.extend(size.to_be_bytes());
    info.extend([0, 3]);
    out.extend(wire::option_reply(wire::OPT_GO, wire::REP_INFO, &info));
    out.extend(wire::option_reply(wire::OPT_GO, wire::REP_ACK, &[]));
    out
}

/// What a client makes of a server that says just this.
fn against(said: &[u8]) -> Result<(Vec<Extent>, usize), NbdError> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = theirs.write_all(said);
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            let _ = theirs.read_to_end(&mut Vec::new());
        });
        let mut client = Client::over(ours, "vda", None, Duration::from_secs(60))?;
        let extents = client.extents(0)?;
        let mut got = 0;
        client.read::<NbdError>([(0, 8_192)].into_iter(), |_, part| {
            got += part.len();
            Ok(())
        })?;
        Ok((extents, got))
    })
}

fn chunk(kind: u16, cookie: u64, data: &[u8]) -> Vec<u8> {
    let mut out = wire::CHUNK.to_be_bytes().to_vec();
    out.extend(wire::CHUNK_DONE.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn status(pairs: &[(u32, u32)]) -> Vec<u8> {
    let mut data = 7u32.to_be_bytes().to_vec();
    pairs.iter().for_each(|(length, state)| data.extend([length.to_be_bytes(), state.to_be_bytes()].concat()));
    chunk(wire::CHUNK_STATUS, 1, &data)
}

fn data(at: u64, bytes: usize) -> Vec<u8> {
    chunk(wire::CHUNK_DATA, 2, &[&at.to_be_bytes()[..], &vec![5; bytes]].concat())
}

#[test]
fn a_server_that_lies_is_found_out() {
    let said = |parts: &[&[u8]]| against(&[&handshake(MIB), &parts.concat()[..]].concat());
    let (extents, got) = said(&[&status(&[(1 << 20, 0)]), &data(0, 8_192)]).unwrap();
    assert_eq!((extents.len(), got), (1, 8_192));
    let wrong = |parts: &[&[u8]]| match said(parts) {
        Err(NbdError::Protocol(_)) => {}
        other => panic!("{other:?}"),
    };
    let good = status(&[(1 << 20, 0)]);
    wrong(&[&status(&[(0, 0)])]);
    wrong(&[&status(&[])]);
    wrong(&[&chunk(wire::CHUNK_STATUS, 9, &[])]);
    wrong(&[&good, &data(4_096, 8_192)]);
    wrong(&[&good, &data(0, 9_000)]);
    wrong(&[&good, &data(0, 100)]);
    wrong(&[&good, &data(u64::MAX, 8_192)]);
    wrong(&[&good, &chunk(wire::CHUNK_HOLE, 2, &[0xff; 12])]);
    let mut bomb = chunk(wire::CHUNK_DATA, 2, &[]);
    bomb[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    wrong(&[&good, &bomb]);
    assert!(matches!(against(&handshake(u64::MAX)), Err(NbdError::TooLarge(_))));
    let mut name_bomb = handshake(MIB);
    name_bomb[18 + 16..18 + 20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(against(&name_bomb), Err(NbdError::Protocol(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_garbage_makes_the_client_panic_or_hang(
        cut in 0usize..400,
        flip in proptest::collection::vec((0usize..400, any::<u8>()), 0..4),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut said = [handshake(MIB), status(&[(1 << 20, 0)]), data(0, 8_192)].concat();
        for (at, byte) in flip {
            let at = at % said.len();
            said[at] = byte;
        }
        if cut < 200 {
            said.truncate(said.len().saturating_sub(cut));
        }
        said.extend(tail);
        let _ = against(&said);
    }
}

/// Every second block of 16 MiB is data, as on a disk in long use.
struct Scattered;

impl Image for Scattered {
    fn size(&self) -> u64 {
        16 * MIB
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        for (byte, at) in buffer.iter_mut().zip(offset..) {
            *byte = if at % 8_192 < 4_096 { 3 } else { 0 };
        }
        Ok(())
    }

    fn data(&self) -> Vec<(u64, u64)> {
        (0..16 * MIB).step_by(8_192).map(|at| (at, 4_096)).collect()
    }
}

#[test]
fn qemu_gets_a_disk_whose_data_lies_scattered() {
    let dir = tempfile::tempdir().unwrap();
    let exports = Exports::from([("vda".into(), Arc::new(Scattered) as _)]);
    let _server = Server::start(&dir.path().join("s"), exports).unwrap();
    let uri = format!("nbd+unix:///vda?socket={}", dir.path().join("s").display());
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, "out"], dir.path());
    let mut wanted = vec![0; 16 << 20];
    Scattered.read_at(0, &mut wanted).unwrap();
    assert!(std::fs::read(dir.path().join("out")).unwrap() == wanted);
    let mut client = Client::connect(&dir.path().join("s"), "vda", None).unwrap();
    assert_eq!(map(&mut client).len(), 4_096);
}

/// Two runs of data in 16 MiB.
struct Made;

impl Image for Made {
    fn size(&self) -> u64 {
        16 * MIB
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        if offset == 15 * MIB {
            return Err(std::io::Error::other("damaged"));
        }
        for (byte, at) in buffer.iter_mut().zip(offset..) {
            *byte = if self.data().iter().any(|(from, length)| (*from..from + length).contains(&at)) { 7 } else { 0 };
        }
        Ok(())
    }

    fn data(&self) -> Vec<(u64, u64)> {
        vec![(MIB, MIB), (8 * MIB, 4_096)]
    }
}

fn serve() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), Exports::from([("vda".into(), Arc::new(Made) as _)])).unwrap();
    (dir, server)
}

#[test]
fn the_server_gives_qemu_what_the_image_holds() {
    let (dir, server) = serve();
    let uri = format!("nbd+unix:///vda?socket={}", dir.path().join("s").display());
    let output = Command::new("qemu-img").args(["map", "--output=json", "-f", "raw", &uri]).output().unwrap();
    let map: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let data: Vec<_> = map.iter().filter(|part| part["data"] == true).map(|part| part["start"].as_u64()).collect();
    assert_eq!(data, [Some(MIB), Some(8 * MIB)]);
    run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 7 1M 1M", "-c", "read -P 0 2M 6M", &uri], dir.path());
    let failed = Command::new("qemu-io").args(["-r", "-f", "raw", "-c", "read 15M 64k", &uri]).output().unwrap();
    assert!(!failed.status.success() || String::from_utf8_lossy(&failed.stdout).contains("failed"), "{failed:?}");
    drop(server);
    assert!(!dir.path().join("s").exists());
}

#[test]
fn the_server_outlives_rude_clients() {
    let (dir, _server) = serve();
    for garbage in [vec![0; 100], vec![0xff; 5_000], [&[0, 0, 0, 3][..], &wire::option(7, &[0xff; 6])].concat()] {
        let mut stream = UnixStream::connect(dir.path().join("s")).unwrap();
        let _ = stream.write_all(&garbage);
    }
    let mut client = Client::connect(&dir.path().join("s"), "vda", None).unwrap();
    assert_eq!(map(&mut client).len(), 5);
    let mut got = 0;
    client
        .read::<NbdError>([(MIB, MIB)].into_iter(), |_, part| {
            got += part.len();
            Ok(())
        })
        .unwrap();
    assert_eq!(got, 1 << 20);
}

/// Large reads wait until a small one was answered.
#[derive(Default)]
struct Patient(Mutex<bool>, Condvar);

impl Image for Patient {
    fn size(&self) -> u64 {
        16 * MIB
    }

    fn read_at(&self, _: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let mut small = self.0.lock().unwrap();
        *small |= buffer.len() == 4_096;
        self.1.notify_all();
        let (small, _) = self.1.wait_timeout_while(small, Duration::from_secs(60), |small| !*small).unwrap();
        if *small { Ok(()) } else { Err(std::io::Error::other("no small read came by")) }
    }

    fn data(&self) -> Vec<(u64, u64)> {
        vec![(0, 16 * MIB)]
    }
}

#[test]
fn a_guest_s_small_read_does_not_wait_for_large_ones() {
    let dir = tempfile::tempdir().unwrap();
    let exports = Exports::from([("vda".into(), Arc::new(Patient::default()) as _)]);
    let _server = Server::start(&dir.path().join("s"), exports).unwrap();
    let mut client = Client::connect(&dir.path().join("s"), "vda", None).unwrap();
    let mut got = Vec::new();
    let read = client.read::<NbdError>([(0, MIB), (MIB, MIB), (8 * MIB, 4_096)].into_iter(), |at, _| {
        got.push(at);
        Ok(())
    });
    read.unwrap();
    assert_eq!(got, [0, MIB, 8 * MIB]);
}
