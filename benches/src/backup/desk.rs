//! The guest under measurement: a small Linux with the data set's disk, made and driven through the API; its own load is
//! `writer.c`, which times each access inside the guest.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{Grid, output, text, tiny, until};
use serde_json::{Value, json};

/// Emulated guests on a busy machine, and whole disks.
pub(crate) const LONG: Duration = Duration::from_secs(900);
const BLOCK: usize = 4_096;
/// Largest single write of the day's changes.
const RUN: u64 = 1 << 20;
const READY: &str = "ROOST-READY";
const TOLD: &str = "WRITER ";

/// What the writer told of a phase; microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) count: f64,
    pub(crate) first: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

/// One guest.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) name: String,
}

impl<'a> Desk<'a> {
    /// A guest of h1, not started, with a disk of this size; `data` is what lies on it.
    pub(crate) fn make(grid: &'a Grid, name: &str, size_mib: u64, data: Option<&Path>) -> Result<Self> {
        let mut spec = tiny(name, "h1", false);
        spec["memory_mib"] = json!(192);
        let cmdline = "console=ttyS0 quiet roost.quiet=1";
        spec["boot"] = json!({"from": "kernel", "kernel": "vmlinuz", "initrd": INITRD, "cmdline": cmdline});
        spec["disks"] = json!([{"from": "blank", "size_mib": size_mib}]);
        grid.api.done(Method::POST, "/guests", &spec)?;
        let desk = Self { grid, name: name.to_owned() };
        if let Some(data) = data {
            grid.lab.exec(1, &["qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", text(data)?, &desk.disk()?])?;
        }
        Ok(desk)
    }

    /// One that the API made.
    pub(crate) fn of(grid: &'a Grid, name: &str) -> Self {
        Self { grid, name: name.to_owned() }
    }

    pub(crate) fn disk(&self) -> Result<String> {
        let guest = self.grid.api.get(&format!("/guests/{}", self.name))?;
        guest["disks"][0]["path"].as_str().map(str::to_owned).context("its disk")
    }

    fn serial(&self) -> Result<String> {
        let guest = self.grid.api.get(&format!("/guests/{}", self.name))?;
        let id = guest["id"].as_str().context("its id")?;
        let read = format!("tr -cd '[:print:]\\n' < /var/lib/roost/guests/{id}/serial.log");
        self.grid.lab.exec(1, &["sh", "-c", &read])
    }

    /// Starts it; how long until its own programs ran.
    pub(crate) fn start(&self) -> Result<Duration> {
        let before = self.boots()?;
        let began = Instant::now();
        self.grid.api.act(&self.name, "start")?;
        self.ready(before)?;
        Ok(began.elapsed())
    }

    /// Waits for the sign that its programs run once more than so often.
    pub(crate) fn ready(&self, before: usize) -> Result<()> {
        until("the guest is ready", LONG, || {
            ensure!(self.boots()? > before, "not yet");
            Ok(())
        })
    }

    fn boots(&self) -> Result<usize> {
        Ok(self.serial()?.matches(READY).count())
    }

    pub(crate) fn stop(&self) -> Result<()> {
        self.grid.api.act(&self.name, "stop").map(drop)
    }

    pub(crate) fn qemu(&self) -> Result<u32> {
        self.grid.qemu(1, &self.name)
    }

    /// Has a shell in the guest do this.
    fn inside(&self, script: &str) -> Result<()> {
        let ask = json!({"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", script]}}).to_string();
        until("the guest's own agent takes an order", LONG, || {
            self.grid.virsh(1, &["qemu-agent-command", &self.name, &ask]).map(drop)
        })
    }

    /// Begins its load: `read` or `write` of so many bytes, so often a second, at random places of a part of the disk.
    pub(crate) fn load(&self, verb: &str, first_mib: u64, span_mib: u64, bytes: u64, per_s: u64) -> Result<()> {
        self.inside(&format!("exec /bin/writer {verb} /dev/vda {first_mib} {span_mib} {bytes} {per_s}"))
    }

    /// What the load met since this was last asked.
    pub(crate) fn met(&self) -> Result<Latency> {
        let told = |said: &str| said.lines().filter(|line| line.starts_with(TOLD)).count();
        let before = told(&self.serial()?);
        self.inside("kill -USR1 $(pidof writer)")?;
        let line = until("the writer tells", LONG, || {
            let said = self.serial()?;
            ensure!(told(&said) > before, "not yet");
            let last = said.lines().rfind(|line| line.starts_with(TOLD)).map(str::to_owned);
            last.filter(|line| line.split_whitespace().count() == 6).context("half a line")
        })?;
        let numbers = line.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [count, first, p50, p99, most] = numbers[..] else { anyhow::bail!("the writer told {line:?}") };
        Ok(Latency { count, first, p50, p99, most })
    }

    pub(crate) fn unload(&self) -> Result<()> {
        self.inside("kill -9 $(pidof writer)")
    }

    /// Brings the data set's working day onto the disk, through the running guest's own device; how much that was.
    pub(crate) fn day(&self, v1: &Path, v2: &Path) -> Result<u64> {
        let folder = self.grid.folder.join("day");
        fs::create_dir_all(&folder)?;
        let (mut orders, mut all) = (String::new(), 0);
        let new = File::open(v2)?;
        for (number, (at, length)) in runs(v1, v2)?.into_iter().enumerate() {
            let mut bytes = vec![0; usize::try_from(length)?];
            new.read_exact_at(&mut bytes, at)?;
            let file = folder.join(number.to_string());
            fs::write(&file, bytes)?;
            let write = format!("qemu-io -d {DEVICE} \\\"write -q -s {} {at} {length}\\\"", file.display());
            orders.push_str(&format!("qemu-monitor-command {} --hmp \"{write}\"\n", self.name));
            all += length;
        }
        let file = folder.join("orders");
        fs::write(&file, orders)?;
        let said =
            self.grid.lab.exec(1, &["sh", "-c", &format!("virsh -q -c qemu:///system < {} 2>&1", file.display())])?;
        fs::remove_dir_all(&folder)?;
        let wrong = said.lines().find(|line| line.contains("rror") || line.contains("ailed"));
        ensure!(wrong.is_none(), "bring the day's changes in: {wrong:?}");
        Ok(all)
    }
}

/// The guest's disk, as QEMU names it.
const DEVICE: &str = "/machine/peripheral/virtio-disk0/virtio-backend";
const INITRD: &str = "bench.cpio";

/// The test guest with the writer in it, on a host that has the test guests' images.
pub(crate) fn give_writer(grid: &Grid, host: u8) -> Result<()> {
    let tree = grid.folder.join("writer");
    fs::create_dir_all(tree.join("bin"))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backup/writer.c");
    output(Command::new("cc").args(["-static", "-O2", "-o"]).arg(tree.join("bin/writer")).arg(source))?;
    let made = grid.folder.join(INITRD);
    let initrd = grid.lab.guest_folder()?.join("initrd.cpio");
    // Linux unpacks one archive after the other.
    let pack = format!(
        "cd {} && cat {} > {made} && echo bin/writer | cpio -o -H newc -R 0:0 --quiet >> {made}",
        text(&tree)?,
        text(&initrd)?,
        made = text(&made)?
    );
    output(Command::new("sh").args(["-c", &pack]))?;
    grid.lab.exec(host, &["cp", text(&made)?, "/var/lib/roost/images/"]).map(drop)
}

/// Where two disks differ, in blocks of 4 KiB, neighbours together.
fn runs(v1: &Path, v2: &Path) -> Result<Vec<(u64, u64)>> {
    let (a, b) = (File::open(v1)?, File::open(v2)?);
    let (mut old, mut new) = (vec![0; 4 << 20], vec![0; 4 << 20]);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for base in (0..b.metadata()?.len()).step_by(old.len()) {
        a.read_exact_at(&mut old, base)?;
        b.read_exact_at(&mut new, base)?;
        for (index, (old, new)) in old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
            let at = base + u64::try_from(index * BLOCK)?;
            match runs.last_mut() {
                _ if old == new => {}
                Some((start, length)) if *start + *length == at && *length < RUN => *length += BLOCK as u64,
                Some(_) | None => runs.push((at, BLOCK as u64)),
            }
        }
    }
    Ok(runs)
}

/// Waits for slow work that must succeed, looking at it often; `look` sees each state.
pub(crate) fn watch(grid: &Grid, operation: &Value, mut look: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    let id = operation["id"].as_str().with_context(|| format!("no operation: {operation}"))?;
    until("the operation ends", LONG, || {
        let seen = grid.api.get(&format!("/operations/{id}"))?;
        look(&seen)?;
        match seen["state"].as_str() {
            Some("succeeded") => Ok(Ok(())),
            Some("failed" | "cancelled") => Ok(Err(anyhow::anyhow!("{seen}"))),
            _ => anyhow::bail!("it is {seen}"),
        }
    })?
}
