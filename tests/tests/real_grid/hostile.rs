//! Images, definitions and paths made to reach what is the host's: each is refused with the reason, and nothing stays.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, tiny};
use serde_json::{Value, json};

use crate::lifecycle::nothing_is_left;

/// A refusal; nothing large is copied before it.
const REFUSED: Duration = Duration::from_secs(60);

/// Makes the images, in the host's image folder. Where a name would be opened at once, `-u` keeps QEMU from looking.
const IMAGES: &str = r#"
cd /var/lib/roost/images
new() { qemu-img create -q -f qcow2 "$@"; }
put() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
new good.qcow2 64M
new -b /etc/shadow -F raw absolute.qcow2 1M
new -b good.qcow2 -F qcow2 relative.qcow2
new -u -b 'json:{"driver":"file","filename":"/etc/shadow"}' -F raw json.qcow2 1M
new -u -b nbd://10.0.0.1/x -F raw nbd.qcow2 1M
new -u -b http://10.0.0.1/x -F raw http.qcow2 1M
new -u -b loop-b.qcow2 -F qcow2 loop-a.qcow2 1M
new -u -b loop-a.qcow2 -F qcow2 loop-b.qcow2 1M
new -o data_file=/var/lib/roost/images/data.raw,data_file_raw=on data.qcow2 1M
cp absolute.qcow2 disguised.raw
qemu-img create -q -f vmdk disguised-vmdk.raw 1M
new pebibyte.qcow2 1P
cp good.qcow2 snapshots.qcow2; put snapshots.qcow2 60 '\377\377\377\377'
cp good.qcow2 table.qcow2; put table.qcow2 36 '\377\377\377\377'
cp good.qcow2 feature.qcow2; put feature.qcow2 72 '\100'
ln -s /etc etc; ln -s /etc/shadow link.raw; ln -s /dev/zero endless.raw; mkfifo pipe.raw; mkdir folder.raw
"#;

/// Path and declared format of a disk's image, and a word of the reason.
const DISKS: [(&str, &str, &str); 24] = [
    ("absolute.qcow2", "qcow2", "backing file"),
    ("relative.qcow2", "qcow2", "backing file"),
    ("json.qcow2", "qcow2", "backing file"),
    ("nbd.qcow2", "qcow2", "backing file"),
    ("http.qcow2", "qcow2", "backing file"),
    ("loop-a.qcow2", "qcow2", "backing file"),
    ("data.qcow2", "qcow2", "another file"),
    ("disguised.raw", "raw", "begins like qcow2"),
    ("disguised-vmdk.raw", "raw", "begins like vmdk"),
    ("disguised-vmdk.raw", "vmdk", "raw, qcow2"),
    ("good.qcow2", "", "raw, qcow2"),
    ("pebibyte.qcow2", "qcow2", "are allowed"),
    ("snapshots.qcow2", "qcow2", "snapshot table"),
    ("table.qcow2", "qcow2", "L1 table"),
    ("feature.qcow2", "qcow2", "unknown"),
    ("etc/shadow", "raw", "leads out"),
    ("link.raw", "raw", "leads out"),
    ("endless.raw", "raw", "leads out"),
    ("../ledger.db", "raw", "leads out"),
    ("/etc/shadow", "raw", "leads out"),
    ("/proc/self/fd/0", "raw", "leads out"),
    ("pipe.raw", "raw", "not a regular file"),
    ("folder.raw", "raw", "not a regular file"),
    ("none.raw", "raw", "No such file"),
];

/// What is put into a sound definition, and the word of the reason that names it.
const PARTS: [(&str, &str); 17] = [
    ("<devices><hostdev mode='subsystem' type='usb'/></devices>", "hostdev"),
    ("<devices><filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem></devices>", "filesystem"),
    ("<devices><emulator>/var/lib/roost/images/emulator</emulator></devices>", "/var/lib/roost/images/emulator"),
    ("<devices><serial type='file'><source path='/etc/cron.d/x'/></serial></devices>", "serial"),
    ("<devices><interface type='direct'><source dev='eth0'/></interface></devices>", "direct"),
    ("<devices><rng model='virtio'><backend model='random'>/etc/shadow</backend></rng></devices>", "/etc/shadow"),
    ("<devices><graphics type='vnc' listen='0.0.0.0'/></devices>", "graphics"),
    ("<seclabel type='none'/>", "seclabel"),
    ("<os><loader>/etc/shadow</loader></os>", "loader"),
    ("<os><kernel>/etc/shadow</kernel></os>", "kernel"),
    ("<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-x'/></q:commandline>", "comm"),
    ("DISK:type='network'>", "network"),
    ("DISK:type='block'><source dev='/dev/vda'/>", "block"),
    ("DISK:type='file'><driver type='raw'/><source file='/etc/shadow'/>", "outside"),
    ("DISK:type='file'><driver type='raw'/><source file='/var/lib/roost/images/../ledger.db'/>", "leads out"),
    ("DISK:type='file'><driver type='qcow2'/><source file='absolute.qcow2'/>", "backing file"),
    ("DISK:type='file'><source file='good.qcow2'/>", "name its format"),
];

#[test]
fn real_hostile_images_definitions_and_paths_are_refused_and_leave_nothing() {
    grid::story(1, |grid| {
        grid.join_all()?;
        grid.lab.exec(1, &["sh", "-ec", IMAGES])?;
        for (path, format, word) in DISKS {
            let mut spec = tiny("bad", "h1", true);
            // A good disk first: it must go as well.
            spec["disks"] =
                json!([{"from": "blank", "size_mib": 1}, {"from": "image", "path": path, "format": format}]);
            refused(grid, "/guests", &spec, word).with_context(|| format!("{path} as {format:?}"))?;
        }
        for kernel in ["etc/shadow", "link.raw", "../ledger.db", "/etc/shadow", "pipe.raw", "endless.raw"] {
            let mut spec = tiny("bad", "h1", true);
            spec["boot"]["kernel"] = json!(kernel);
            refused(grid, "/guests", &spec, "").with_context(|| format!("kernel {kernel}"))?;
        }
        for (part, word) in PARTS {
            refused(grid, "/guests/import", &json!({"host": "h1", "xml": xml(part)}), word).context(part)?;
        }
        for (what, text, word) in bombs() {
            refused(grid, "/guests/import", &json!({"host": "h1", "xml": text}), word).context(what)?;
        }
        nothing_is_left(grid)?;
        a_guest_cannot_turn_its_disk_into_a_door(grid)
    });
}

fn xml(part: &str) -> String {
    let disk = part
        .strip_prefix("DISK:")
        .map(|disk| format!("<devices><disk device='disk' {disk}<target dev='vda' bus='virtio'/></disk></devices>"));
    let part = disk.as_deref().unwrap_or(part);
    format!(
        "<domain type='qemu'><name>bad</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>{part}</domain>"
    )
}

/// Small texts that would become large, or deep, or many.
fn bombs() -> [(&'static str, String, &'static str); 4] {
    let laughs = "<!DOCTYPE d [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>";
    [
        ("a billion laughs", format!("{laughs}{}", xml("<title>&b;</title>")), "not allowed"),
        ("a file as entity", format!("<!DOCTYPE d [<!ENTITY a SYSTEM '/etc/shadow'>]>{}", xml("")), "not allowed"),
        ("deep nesting", xml(&"<devices>".repeat(5_000)), "nested too deeply"),
        ("many elements", xml(&"<title/>".repeat(15_000)), "too many elements"),
    ]
}

/// At once or after a look, with the word in the reason.
fn refused(grid: &Grid, path: &str, body: &Value, word: &str) -> Result<()> {
    let answer = grid.api.call(Method::POST, path, Some(body))?;
    let why = match answer.status {
        202 => {
            let ended = grid.api.ended(&answer.body, REFUSED)?;
            ensure!(ended["state"] == "failed", "{ended}");
            ended["error"].clone()
        }
        _ => answer.body,
    };
    ensure!(["invalid", "not_found"].contains(&why["code"].as_str().unwrap_or_default()), "{why}");
    ensure!(why.to_string().contains(word), "{word:?} is not in {why}");
    Ok(())
}

/// A guest writes the header of an image with a backing file over its own raw disk, and is started anew.
fn a_guest_cannot_turn_its_disk_into_a_door(grid: &Grid) -> Result<()> {
    grid.lab.exec(1, &["truncate", "-s", "1M", "/var/lib/roost/images/plain.raw"])?;
    let mut spec = tiny("sly", "h1", true);
    spec["disks"] = json!([{"from": "image", "path": "plain.raw", "format": "raw"}]);
    grid.api.done(Method::POST, "/guests", &spec)?;
    let id = grid.await_guest("sly", "running", REFUSED)?["id"].as_str().context("its id")?.to_owned();
    let disk = format!("/var/lib/roost/guests/{id}/vda.raw");
    let write = format!("dd if=/var/lib/roost/images/absolute.qcow2 of={disk} bs=64k count=4 conv=notrunc status=none");
    grid.lab.exec(1, &["sh", "-c", &write])?;
    grid.api.act("sly", "stop")?;
    grid.api.act("sly", "start")?;
    let qemu = grid.qemu(1, "sly")?;
    // What is shut while it is listed is no trouble.
    let open = grid.lab.exec(1, &["sh", "-c", &format!("ls -l /proc/{qemu}/fd || true")])?;
    ensure!(open.contains(&disk) && !open.contains("/etc/shadow"), "QEMU has open: {open}");
    ensure!(grid.virsh(1, &["dumpxml", "sly"])?.contains("type='raw'"), "its format was guessed");
    // Nor by way of an import of the disk.
    let stolen = xml(&format!("DISK:type='file'><driver type='raw'/><source file='{disk}'/>"));
    refused(grid, "/guests/import", &json!({"host": "h1", "xml": stolen}), "outside")
}
