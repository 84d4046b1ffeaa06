//! Peers on the same work: borg, restic and qemu-img, where they are installed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::UsageWho;

use crate::{Cost, cost, megabytes};

/// What a peer needed.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) full: Option<Cost>,
    pub(crate) full_mb: Option<f64>,
    pub(crate) increment: Option<Cost>,
    pub(crate) increment_mb: Option<f64>,
    pub(crate) restore: Option<Cost>,
}

/// How a peer is called; `{repo}`, `{disk}`, `{out}` are filled in.
struct Calls {
    name: &'static str,
    init: Option<&'static str>,
    full: &'static str,
    /// Absent: it has no increments.
    increment: Option<&'static str>,
    restore: &'static str,
}

const PEERS: [Calls; 4] = [
    Calls {
        name: "qemu-img zstd",
        init: None,
        full: "qemu-img convert -T none -c -f raw -O qcow2 -o compression_type=zstd -m 2 -W {disk} {repo}",
        increment: None,
        restore: "qemu-img convert -f qcow2 -O raw {repo} {out}",
    },
    Calls {
        name: "borg fixed 4 MiB zstd,1",
        init: Some("borg init -e none {repo}"),
        full: "borg create --sparse -C zstd,1 --chunker-params fixed,4194304 {repo}::a {disk}",
        increment: Some("borg create --sparse -C zstd,1 --chunker-params fixed,4194304 {repo}::b {disk}"),
        restore: "borg extract --sparse --stdout {repo}::b > {out}",
    },
    Calls {
        name: "borg buzhash zstd,1",
        init: Some("borg init -e none {repo}"),
        full: "borg create --sparse -C zstd,1 {repo}::a {disk}",
        increment: Some("borg create --sparse -C zstd,1 {repo}::b {disk}"),
        restore: "borg extract --sparse --stdout {repo}::b > {out}",
    },
    Calls {
        name: "restic",
        init: Some("restic init -q -r {repo}"),
        full: "restic -q -r {repo} backup {disk}",
        increment: Some("restic -q -r {repo} backup {disk}"),
        restore: "restic -q -r {repo} dump latest {disk} > {out}",
    },
];

pub(crate) fn measure(work: &Path, v1: &Path, v2: &Path) -> Result<Vec<Peer>> {
    let there = PEERS.iter().filter(|calls| {
        let program = calls.full.split(' ').next().unwrap_or_default();
        Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    there.map(|calls| run(calls, work, v1, v2)).collect()
}

fn run(calls: &Calls, work: &Path, v1: &Path, v2: &Path) -> Result<Peer> {
    eprintln!("{}", calls.name);
    let (folder, out) = (work.join("peer"), work.join("peer.raw"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let (repo, disk) = (folder.join("repo"), folder.join("disk.raw"));
    let shell = |line: &str| {
        let line =
            line.replace("{repo}", &text(&repo)?).replace("{disk}", &text(&disk)?).replace("{out}", &text(&out)?);
        sh(&line, &folder)
    };
    let use_disk = |from: &Path| std::fs::remove_file(&disk).or(Ok(())).and_then(|()| std::fs::hard_link(from, &disk));
    use_disk(v1)?;
    calls.init.map_or(Ok(()), &shell)?;
    let (full, ()) = cost(UsageWho::RUSAGE_CHILDREN, || shell(calls.full))?;
    let full_mb = megabytes(size(&repo)?)?;
    use_disk(v2)?;
    let increment = calls.increment.map(|line| cost(UsageWho::RUSAGE_CHILDREN, || shell(line))).transpose()?;
    let grown = megabytes(size(&repo)?)? - full_mb;
    let (restore, ()) = cost(UsageWho::RUSAGE_CHILDREN, || shell(calls.restore))?;
    std::fs::remove_dir_all(&folder)?;
    std::fs::remove_file(&out)?;
    let peer = Peer {
        name: calls.name,
        full: Some(full),
        full_mb: Some(full_mb),
        increment_mb: increment.map(|_| grown),
        increment: increment.map(|(cost, ())| cost),
        restore: Some(restore),
    };
    eprintln!("{peer:?}");
    Ok(peer)
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}

fn sh(line: &str, folder: &Path) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", line])
        .env("BORG_BASE_DIR", folder.join("borg"))
        .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
        .env("RESTIC_PASSWORD", "x")
        .env("RESTIC_CACHE_DIR", folder.join("restic"))
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("run {line}"))?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// Bytes of a file or of all files in a folder.
fn size(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    std::fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}
