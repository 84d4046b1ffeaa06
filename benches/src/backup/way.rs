//! The ways of making backups that are compared: ours, virtnbdbackup, and QEMU's own job with bitmap and zstd.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use roost_tests::grid::{Grid, lasts};
use serde_json::{Value, json};

use crate::desk::{Desk, watch};

pub(crate) const OURS: &str = "roost";
pub(crate) const BITMAP: &str = "qemu backup job, bitmap+zstd";

/// One way. Paths it gives are h1's; the seconds that its verbs give are CPU of programs that were called from outside the
/// host, which the count of the host's processes misses.
pub(crate) trait Way {
    fn name(&self) -> &'static str;
    /// Reads all of the running guest; `merging` is called when what the guest wrote meanwhile is about to be merged back.
    fn full(&self, desk: &Desk<'_>, merging: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
    /// Reads what changed since the last one.
    fn increment(&self, desk: &Desk<'_>) -> Result<f64>;
    /// Bytes kept by now.
    fn stored(&self, grid: &Grid) -> Result<f64>;
    /// What a later [`Way::restore`] brings back: the newest.
    fn keep(&self, desk: &Desk<'_>) -> Result<()>;
    /// Writes a qcow2 image and gives its path.
    fn restore(&self, desk: &Desk<'_>) -> Result<(String, f64)>;
}

/// Through the API, by the host's agent.
#[derive(Debug, Default)]
pub(crate) struct Roost {
    point: RefCell<String>,
}

impl Roost {
    pub(crate) fn point(&self) -> String {
        self.point.borrow().clone()
    }

    fn run(desk: &Desk<'_>, full: bool, merging: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let path = format!("/backup-sets/{}/actions/run", desk.name);
        let asked = desk.grid.api.post(&path, &json!({"full": full}))?;
        let mut told = false;
        watch(desk.grid, &asked, |seen| {
            if !told && seen["progress"]["step"] == "free the guest" {
                told = true;
                merging()?;
            }
            Ok(())
        })?;
        Ok(0.0)
    }
}

impl Way for Roost {
    fn name(&self) -> &'static str {
        OURS
    }

    fn full(&self, desk: &Desk<'_>, merging: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        Self::run(desk, true, merging)
    }

    fn increment(&self, desk: &Desk<'_>) -> Result<f64> {
        Self::run(desk, false, &mut || Ok(()))
    }

    fn stored(&self, grid: &Grid) -> Result<f64> {
        bytes(grid, "/var/lib/roost/backups/packs")
    }

    fn keep(&self, desk: &Desk<'_>) -> Result<()> {
        let set = desk.grid.api.get(&format!("/backup-sets/{}", desk.name))?;
        *self.point.borrow_mut() = set["newest_point"].as_str().context("the point")?.to_owned();
        Ok(())
    }

    fn restore(&self, desk: &Desk<'_>) -> Result<(String, f64)> {
        let path = format!("/backup-sets/{}/backups/{}/actions/restore", desk.name, self.point());
        let asked = desk.grid.api.post(&path, &json!({"name": "restored"}))?;
        watch(desk.grid, &asked, |_| Ok(()))?;
        Ok((Desk::of(desk.grid, "restored").disk()?, 0.0))
    }
}

/// Debian's virtnbdbackup, with its lz4.
#[derive(Debug, Default)]
pub(crate) struct VirtNbd {
    sets: RefCell<u32>,
    kept: RefCell<String>,
}

const VIRTNBD: &str = "/var/tmp/virtnbd";

impl VirtNbd {
    pub(crate) fn is_installed(grid: &Grid) -> bool {
        grid.lab.exec(1, &["sh", "-c", "command -v virtnbdbackup"]).is_ok()
    }

    fn folder(&self) -> String {
        format!("{VIRTNBD}/{}", self.sets.borrow())
    }

    fn run(&self, desk: &Desk<'_>, level: &str) -> Result<f64> {
        let line =
            format!("virtnbdbackup -d {} -l {level} -o {} -n -z > /var/tmp/virtnbd.log 2>&1", desk.name, self.folder());
        let ended = tool(desk.grid, &line);
        ended.with_context(|| shell(desk.grid, "tail -n 5 /var/tmp/virtnbd.log").unwrap_or_default())
    }
}

impl Way for VirtNbd {
    fn name(&self) -> &'static str {
        "virtnbdbackup lz4"
    }

    fn full(&self, desk: &Desk<'_>, _: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        *self.sets.borrow_mut() += 1;
        shell(desk.grid, &format!("mkdir -p {}", self.folder()))?;
        self.run(desk, "full")
    }

    fn increment(&self, desk: &Desk<'_>) -> Result<f64> {
        self.run(desk, "inc")
    }

    fn stored(&self, grid: &Grid) -> Result<f64> {
        bytes(grid, VIRTNBD)
    }

    fn keep(&self, _: &Desk<'_>) -> Result<()> {
        *self.kept.borrow_mut() = self.folder();
        Ok(())
    }

    fn restore(&self, desk: &Desk<'_>) -> Result<(String, f64)> {
        let line = format!(
            "mkdir {VIRTNBD}/out && virtnbdrestore -i {} -o {VIRTNBD}/out -n > /var/tmp/virtnbd.log 2>&1",
            self.kept.borrow()
        );
        let seconds = tool(desk.grid, &line)?;
        let found = shell(desk.grid, &format!("ls -S {VIRTNBD}/out | head -n 1"))?;
        Ok((format!("{VIRTNBD}/out/{}", found.trim()), seconds))
    }
}

/// QEMU's own backup job (what libvirt's push backup is), with a dirty bitmap, into qcow2 compressed by zstd: each
/// increment lies over the one before. Restored by `qemu-img convert`.
#[derive(Debug, Default)]
pub(crate) struct Qemu {
    made: RefCell<u32>,
    kept: RefCell<u32>,
}

/// Between two looks at the job: each costs libvirt and QEMU a little.
const LOOK: Duration = Duration::from_millis(200);
const PUSH: &str = "/var/tmp/push";
/// The bitmap's name.
const MARK: &str = "bench";

impl Qemu {
    fn file(number: u32) -> String {
        format!("{PUSH}/{number}.qcow2")
    }

    fn qmp(desk: &Desk<'_>, order: &Value) -> Result<Value> {
        let said = desk.grid.virsh(1, &["qemu-monitor-command", &desk.name, &order.to_string()])?;
        let said: Value = serde_json::from_str(&said)?;
        ensure!(said["error"].is_null(), "{order}: {said}");
        Ok(said["return"].clone())
    }

    fn node(desk: &Desk<'_>) -> Result<String> {
        let all = Self::qmp(desk, &json!({"execute": "query-block"}))?;
        let found = all.as_array().and_then(|all| all.iter().find_map(|one| one["inserted"]["node-name"].as_str()));
        found.map(str::to_owned).context("the disk's node")
    }

    fn run(&self, desk: &Desk<'_>, actions: impl FnOnce(&str) -> Value) -> Result<f64> {
        let (number, before) = (*self.made.borrow() + 1, *self.made.borrow());
        let backing =
            if before > *self.kept.borrow() { format!("-b {} -F qcow2", Self::file(before)) } else { String::new() };
        let make = format!("qemu-img create -q -f qcow2 -o compression_type=zstd {backing} {}", Self::file(number));
        let size = if backing.is_empty() { "4G" } else { "" };
        shell(desk.grid, &format!("mkdir -p {PUSH} && {make} {size}"))?;
        let file = json!({"driver": "file", "filename": Self::file(number)});
        let target = json!({"driver": "qcow2", "node-name": "bench-target", "file": file, "backing": null});
        Self::qmp(desk, &json!({"execute": "blockdev-add", "arguments": target}))?;
        let actions = actions(&Self::node(desk)?);
        Self::qmp(desk, &json!({"execute": "transaction", "arguments": {"actions": actions}}))?;
        let job = loop {
            let jobs = Self::qmp(desk, &json!({"execute": "query-jobs"}))?;
            let job = jobs.as_array().and_then(|all| all.iter().find(|job| job["id"] == "bench-job").cloned());
            let job = job.context("the job")?;
            if job["status"] == "concluded" {
                break job;
            }
            lasts(LOOK);
        };
        ensure!(job["error"].is_null(), "{job}");
        Self::qmp(desk, &json!({"execute": "job-dismiss", "arguments": {"id": "bench-job"}}))?;
        Self::qmp(desk, &json!({"execute": "blockdev-del", "arguments": {"node-name": "bench-target"}}))?;
        *self.made.borrow_mut() = number;
        Ok(0.0)
    }
}

impl Way for Qemu {
    fn name(&self) -> &'static str {
        BITMAP
    }

    fn full(&self, desk: &Desk<'_>, _: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        // A second chain begins without the first one's bitmap.
        *self.kept.borrow_mut() = *self.made.borrow();
        let node = Self::node(desk)?;
        let bitmap = json!({"node": node, "name": MARK});
        if *self.made.borrow() > 0 {
            Self::qmp(desk, &json!({"execute": "block-dirty-bitmap-remove", "arguments": bitmap}))?;
        }
        self.run(desk, |node| {
            json!([
                {"type": "block-dirty-bitmap-add", "data": bitmap},
                {"type": "blockdev-backup", "data": {"job-id": "bench-job", "device": node, "target": "bench-target",
                    "sync": "full", "compress": true, "auto-dismiss": false}},
            ])
        })
    }

    fn increment(&self, desk: &Desk<'_>) -> Result<f64> {
        self.run(desk, |node| {
            json!([{"type": "blockdev-backup", "data": {"job-id": "bench-job", "device": node, "target": "bench-target",
                "sync": "bitmap", "bitmap": MARK, "bitmap-mode": "on-success", "compress": true,
                "auto-dismiss": false}}])
        })
    }

    fn stored(&self, grid: &Grid) -> Result<f64> {
        bytes(grid, PUSH)
    }

    fn keep(&self, desk: &Desk<'_>) -> Result<()> {
        shell(desk.grid, &format!("ln -sfn {} {PUSH}/kept", Self::file(*self.made.borrow()))).map(drop)
    }

    fn restore(&self, desk: &Desk<'_>) -> Result<(String, f64)> {
        let line = format!("qemu-img convert -f qcow2 -O qcow2 {PUSH}/kept {PUSH}/out && sync {PUSH}/out");
        Ok((format!("{PUSH}/out"), tool(desk.grid, &line)?))
    }
}

fn shell(grid: &Grid, line: &str) -> Result<String> {
    grid.lab.exec(1, &["sh", "-c", line])
}

/// Runs a program of a peer's in the host; its CPU seconds, with those of what it called.
fn tool(grid: &Grid, line: &str) -> Result<f64> {
    let ended = || -> Result<f64> {
        let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let both = [used.user_time(), used.system_time()];
        Ok(both.iter().map(|time| time.num_microseconds()).map(|micros| micros as f64 / 1e6).sum())
    };
    let before = ended()?;
    shell(grid, line)?;
    Ok(ended()? - before)
}

fn bytes(grid: &Grid, folder: &str) -> Result<f64> {
    let said = shell(grid, &format!("du -s --block-size=1 {folder}"))?;
    said.split_whitespace().next().and_then(|number| number.parse().ok()).with_context(|| said.clone())
}
