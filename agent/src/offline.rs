//! `roost-agent store`: lists, verifies and exports what a store or a copy of it holds, on a machine with nothing but this
//! program and qemu-img. Nothing is written to the store, and an agent may be using it.

use std::cell::RefCell;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use roost_protocol::backup::{Damage, Proof};
use roost_protocol::calendar::local_day;
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{PointId, Stamp};
use roost_store::{Encryption, Options, Progress, Scope, Store, Summary};

use crate::act::backup::DEFINITION;
use crate::act::nbd::server::Image;
use crate::act::points::ship::ship;
use crate::act::points::{aside, prune, store_failure};
use crate::act::restore::disk::{self, Meter, weight};
use crate::act::restore::origin::{FromStore, Origin};
use crate::config::Config;
use crate::files;
use crate::keys;

/// A slow copy says so often that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Damaged ranges that are named one by one; a lost disk has one for each range.
const NAMED: usize = 1_000;

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// List the restore points.
    List {
        /// Folder of the store or of a copy of it (default: this host's own).
        path: Option<PathBuf>,
    },
    /// Read every byte of all points and name what is damaged: guest, point, disk and range.
    Verify {
        /// Folder of the store or of a copy of it (default: this host's own).
        path: Option<PathBuf>,
    },
    /// Make the key file of an encrypted store (`backup_key_file` in the settings). Keep a copy elsewhere.
    NewKey {
        /// The file to make.
        file: PathBuf,
    },
    /// Put a new key into a key file; what the older ones sealed stays readable. The agent takes it at its next start.
    RotateKey {
        /// The key file.
        file: PathBuf,
    },
    /// Bring a point to another store, which is made where it is not there; only what it lacks is written.
    Copy {
        /// The point, as `list` shows it.
        point: PointId,
        /// Folder of the store to read, or of a copy of it.
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        /// Folder of the store to write.
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
        /// Bytes per second.
        #[arg(long)]
        bandwidth: Option<u64>,
    },
    /// Remove points from a store and give their room back. Points that are not there are none to worry about.
    Remove {
        /// The points, as `list` shows them.
        points: Vec<PointId>,
        /// Folder of the store.
        #[arg(long, value_name = "PATH")]
        store: PathBuf,
    },
    /// Write a disk of a point to a new qcow2 file. Needs qemu-img.
    Export {
        /// The point, as `list` shows it.
        point: PointId,
        /// The file to make.
        #[arg(long, value_name = "FILE")]
        qcow2: PathBuf,
        /// Which disk, where the point has several.
        #[arg(long, value_name = "NAME")]
        disk: Option<String>,
        /// Also write the guest's libvirt definition there.
        #[arg(long, value_name = "FILE")]
        definition: Option<PathBuf>,
        /// Folder of the store or of a copy of it (default: this host's own).
        #[arg(long, value_name = "PATH")]
        store: Option<PathBuf>,
    },
}

/// What `roost-agent store` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArguments {
    /// Key file of an encrypted store (default: the one in the settings).
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(subcommand)]
    command: StoreCommand,
}

/// Carries out the command; words for people go to `out`.
pub(crate) fn run(config: &Config, arguments: &StoreArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.command {
        StoreCommand::NewKey { file } => {
            keys::make(file)?;
            writeln!(out, "{}: keep a copy elsewhere; without it the backups can't be read", file.display())?;
            Ok(())
        }
        StoreCommand::RotateKey { file } => {
            keys::rotate(file)?;
            writeln!(out, "{}: copy it elsewhere again, and restart the agent", file.display())?;
            Ok(())
        }
        StoreCommand::List { path } => list(&open(config, arguments, path.as_deref())?, out),
        StoreCommand::Verify { path } => verify(&open(config, arguments, path.as_deref())?, out),
        StoreCommand::Copy { point, from, to, bandwidth } => {
            let from = open(config, arguments, Some(from))?;
            copy(&from, &to_write(config, arguments, to)?, *point, *bandwidth, out)
        }
        StoreCommand::Remove { points, store } => {
            prune(&to_write(config, arguments, store)?, points).map_err(Told)?;
            Ok(())
        }
        StoreCommand::Export { point, qcow2, disk, definition, store } => {
            let store = open(config, arguments, store.as_deref())?;
            let wanted = Export { point: *point, qcow2, disk: disk.as_deref(), definition: definition.as_deref() };
            export(&store, &wanted, out)
        }
    }
}

/// A failure in the words that travel.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.text)]
struct Told(Failure);

/// How the program ends on this error, where that says more than 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref::<Told>().map(|told| told.0.code) {
        Some(FailureCode::NoSpace) => Some(aside::FULL),
        Some(FailureCode::Damaged) => Some(aside::DAMAGED),
        Some(FailureCode::NotFound) => Some(aside::GONE),
        Some(_) | None => None,
    }
}

fn copy(from: &Store, to: &Store, point: PointId, bandwidth: Option<u64>, out: &mut dyn Write) -> anyhow::Result<()> {
    let out = RefCell::new((out, String::new(), Instant::now()));
    // Told again where nothing changed, so that whoever listens knows that it goes on.
    let tell = |_: u32, step: &str| {
        let (out, last, at) = &mut *out.borrow_mut();
        if step != last || at.elapsed() >= SIGN_OF_LIFE {
            (*last, *at) = (step.to_owned(), Instant::now());
            let _ = writeln!(out, "{step}").and_then(|()| out.flush());
        }
    };
    ship(from, to, point, bandwidth, &AtomicBool::new(false), &tell).map_err(Told)?;
    Ok(())
}

fn to_write(config: &Config, arguments: &StoreArguments, path: &Path) -> anyhow::Result<Store> {
    let options = Options { encryption: encryption(config, arguments)?, ..Options::default() };
    let opened = Store::open(path, options);
    let opened = opened.map_err(|error| Told(store_failure(&format!("open the store {}", path.display()), &error)));
    Ok(opened?)
}

fn encryption(config: &Config, arguments: &StoreArguments) -> anyhow::Result<Option<Encryption>> {
    Ok(match &arguments.key {
        Some(file) => Some(keys::read(file)?),
        None => config.backup_keys()?,
    })
}

fn open(config: &Config, arguments: &StoreArguments, path: Option<&Path>) -> anyhow::Result<Store> {
    let path = path.map_or_else(|| config.backups(), Path::to_owned);
    let options = Options { read_only: true, encryption: encryption(config, arguments)?, ..Options::default() };
    Store::open(&path, options).with_context(|| format!("open the store {}", path.display()))
}

fn list(store: &Store, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{:36}  {:19}  {:>9}  {:8}  GUEST", "POINT", "SHOWS (UTC)", "MIB", "PROOF")?;
    for point in store.points() {
        let (shows, size) = (utc(point.meta.started), point.size_bytes >> 20);
        let proof = match &point.proof {
            Proof::Untried => "untried",
            Proof::Proven { .. } => "proven",
            Proof::Failed { .. } => "failed",
        };
        writeln!(out, "{}  {shows}  {size:>9}  {proof:8}  {}", point.point, whose(&point))?;
    }
    for (point, why) in store.broken() {
        writeln!(out, "{point}  its manifest can't be read: {why}")?;
    }
    Ok(())
}

fn verify(store: &Store, out: &mut dyn Write) -> anyhow::Result<()> {
    let points = store.points();
    let damages = store.verify(Scope::All, &mut watcher("verify"))?;
    tell_damages(&points, &damages, out)?;
    if !damages.is_empty() {
        let mut hit: Vec<PointId> = damages.iter().map(|damage| damage.point).collect();
        hit.sort_unstable();
        hit.dedup();
        let all = points.len() + store.broken().len();
        bail!("{} of {all} points are damaged; the others are whole", hit.len());
    }
    writeln!(out, "all {} points are whole", points.len())?;
    Ok(())
}

/// What is written, and where.
struct Export<'a> {
    point: PointId,
    qcow2: &'a Path,
    disk: Option<&'a str>,
    definition: Option<&'a Path>,
}

fn export(store: &Store, wanted: &Export<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let disk = choose_disk(store, wanted)?;
    for path in [Some(wanted.qcow2), wanted.definition].into_iter().flatten() {
        if path.exists() {
            bail!("{} is there already: choose another name, or move it away", path.display());
        }
    }
    refuse_damaged(store, wanted.point, out)?;
    let origin = FromStore { store: store.clone(), point: wanted.point };
    write_disk(&origin, &disk, wanted.qcow2)?;
    writeln!(out, "{}: disk {disk} of point {}", wanted.qcow2.display(), wanted.point)?;
    if let Some(path) = wanted.definition {
        let bytes = origin.file(DEFINITION).map_err(told)?;
        fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
        writeln!(out, "{}: the guest's definition; its disks' paths are those of its host", path.display())?;
    }
    Ok(())
}

fn choose_disk(store: &Store, wanted: &Export<'_>) -> anyhow::Result<String> {
    let manifest = store.manifest(wanted.point).context("find the point; `roost-agent store list` shows all")?;
    let names: Vec<&str> = manifest.point.disks.iter().map(|disk| disk.name.as_str()).collect();
    match (wanted.disk, names.as_slice()) {
        (_, []) => bail!("the point has no disk"),
        (None, [only]) => Ok((*only).to_owned()),
        (None, several) => bail!("the point has several disks: choose one by --disk: {}", several.join(", ")),
        (Some(name), names) if names.contains(&name) => Ok(name.to_owned()),
        (Some(name), names) => bail!("the point has no disk {name:?}; it has {}", names.join(", ")),
    }
}

/// A point that is not whole is not given out; the one that is next best is named.
fn refuse_damaged(store: &Store, point: PointId, out: &mut dyn Write) -> anyhow::Result<()> {
    let damages = store.verify(Scope::Point(point), &mut watcher("verify"))?;
    if damages.is_empty() {
        return Ok(());
    }
    tell_damages(&store.points(), &damages, out)?;
    let guest = store.manifest(point)?.point.guest;
    let older = store.older_whole(point, &mut watcher("look for a whole one"))?;
    let other = match older {
        Some(older) => Some(older),
        None => store.whole_points(guest, &mut watcher("look for a whole one"))?.pop(),
    };
    match other {
        Some(other) => bail!("point {point} is damaged and was not exported; the next good one is {other}"),
        None => bail!("point {point} is damaged and was not exported; its guest has no whole point in this store"),
    }
}

fn write_disk(origin: &FromStore, disk: &str, path: &Path) -> anyhow::Result<()> {
    let image: Arc<dyn Image> = origin.disk(disk).map_err(told)?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let folder = std::env::temp_dir().join(format!("roost-export-{}", uuid::Uuid::new_v4().simple()));
    files::make_folder(&folder, 0o700).with_context(|| format!("make {}", folder.display()))?;
    let tell = |percent: u32, _: &str| say_progress("write", u64::from(percent));
    let unwanted = AtomicBool::new(false);
    let mut meter = Meter::new(&unwanted, &tell, weight(image.as_ref()));
    let filled = disk::export(&folder, disk, &image, &part, &mut meter).map_err(told);
    end_progress();
    let _ = fs::remove_dir_all(&folder);
    let named = filled.and_then(|()| fs::rename(&part, path).with_context(|| format!("write {}", path.display())));
    if named.is_err() {
        let _ = fs::remove_file(&part);
    }
    named
}

fn tell_damages(points: &[Summary], damages: &[Damage], out: &mut dyn Write) -> io::Result<()> {
    for Damage { guest, point, disk, from, length, why } in damages.iter().take(NAMED) {
        match points.iter().find(|known| known.point == *point) {
            Some(known) => {
                writeln!(out, "guest {}, point {point}, {disk}: {length} bytes from {from}: {why}", whose(known))?
            }
            None if disk.is_empty() => writeln!(out, "point {point}: {why}")?,
            None => writeln!(out, "guest {guest}, point {point}, {disk}: {length} bytes from {from}: {why}")?,
        }
    }
    match damages.len().saturating_sub(NAMED) {
        0 => Ok(()),
        more => writeln!(out, "and {more} more"),
    }
}

fn whose(point: &Summary) -> String {
    match point.meta.guest_name.as_str() {
        "" => point.guest.to_string(),
        name => format!("{name} ({})", point.guest),
    }
}

fn utc(at: Stamp) -> String {
    let (_, (year, month, day)) = local_day(None, at);
    let second = at.0 / 1_000;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3_600 % 24, second / 60 % 60, second % 60)
}

fn watcher(step: &'static str) -> impl FnMut(Progress) -> ControlFlow<()> {
    move |progress| {
        let done = progress.points_done.saturating_mul(100) / progress.points.max(1);
        say_progress(step, u64::try_from(done).unwrap_or(100));
        if progress.points_done + 1 >= progress.points {
            end_progress();
        }
        ControlFlow::Continue(())
    }
}

/// One line that is written over; only where somebody looks.
fn say_progress(step: &str, percent: u64) {
    let mut err = io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r{step}: {percent} % ");
    }
}

fn end_progress() {
    let mut err = io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K");
    }
}

fn told(failure: Failure) -> anyhow::Error {
    Told(failure).into()
}
