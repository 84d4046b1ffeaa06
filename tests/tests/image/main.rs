//! The host image boots in QEMU and its agent joins a grid. `make image-test` builds the image and runs these; they are
//! left out where `ROOST_IMAGE` does not name its folder.

mod dnsmasq;
mod machine;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::{Firmware, HERE, Machine, SECOND, burnt, image, offer, serve, written};
use roost_tests::grid::{self, Grid, QUIC, eventually};

/// From power on to joined, emulated, on a busy machine of two processors.
const BOOT: Duration = Duration::from_secs(480);

/// Most memory that is gone after boot, beside the root image.
const USED_MIB: u64 = 300;
/// Arc of the VM-MIB (RFC 7666), where guests are named.
const VM_MIB: &str = ".1.3.6.1.2.1.236";

/// A grid without hosts and the image's folder, where these tests are wanted.
fn story(tell: impl FnOnce(&mut Grid) -> Result<()>) {
    if image().is_none() {
        return eprintln!("skipped: ROOST_IMAGE names no folder with the host image; make image-test");
    }
    grid::story(0, tell);
}

/// The two answers as kernel parameters.
fn answers(grid: &Grid, name: &str) -> Result<String> {
    Ok(format!("roost.aggregator={}:{QUIC} roost.token={} roost.name={name}", grid.lab.address(0), grid.token(name)?))
}

fn is_up(grid: &Grid, name: &str) -> Result<String> {
    grid::until(&format!("{name} is up"), BOOT, || {
        let seen = grid.api.get(&format!("/hosts/{name}"))?;
        ensure!(seen["state"] == "up", "it is {}", seen["state"]);
        Ok(seen["id"].as_str().context("its id")?.to_owned())
    })
}

#[test]
fn image_joins_with_answers_among_the_kernel_s_parameters_and_says_that_it_keeps_nothing() {
    story(|grid| {
        let machine = Machine::kernel(grid, &answers(grid, "img1")?).start()?;
        is_up(grid, "img1")?;
        machine.says("agent       connected to the aggregator", BOOT)?;
        machine.says("nothing is kept over a reboot", BOOT)?;
        let seen = grid.api.get("/hosts/img1")?;
        ensure!(seen["system"].as_str().is_some_and(|system| system.starts_with("Debian")), "{seen}");
        let booted = &seen["image"];
        ensure!(booted["version"].is_string() && booted["made"].is_string() && booted["slot"].is_null(), "{booted}");
        ensure!(!machine.said().contains("Failed to start"), "{}", machine.said());
        Ok(())
    });
}

#[test]
fn image_joins_from_a_stick_by_bios_with_answers_in_its_file() {
    story(|grid| from_stick(grid, "bios", Firmware::Bios));
}

#[test]
fn image_joins_from_a_stick_by_uefi_with_answers_in_its_file() {
    story(|grid| from_stick(grid, "uefi", Firmware::Uefi));
}

fn from_stick(grid: &mut Grid, name: &str, firmware: Firmware) -> Result<()> {
    let file = file(grid, name)?;
    let _machine = Machine::stick(grid, firmware, &file)?.start()?;
    is_up(grid, name).map(drop)
}

/// The answers as roost.conf, by somebody whose editor ends lines as Windows does.
fn file(grid: &Grid, name: &str) -> Result<String> {
    let (address, token) = (grid.lab.address(0), grid.token(name)?);
    Ok(format!("# answered\r\naggregator={address}:{QUIC}\r\ntoken={token}\r\nname={name}\r\n"))
}

#[test]
fn image_joins_from_a_disc_by_bios_and_by_uefi() {
    story(|grid| {
        for (name, firmware) in [("disc", Firmware::Bios), ("disc-uefi", Firmware::Uefi)] {
            let disc = burnt(grid, &file(grid, name)?)?;
            let _machine = Machine::disc(&disc, grid, firmware)?.start()?;
            is_up(grid, name)?;
            fs::remove_file(disc)?;
        }
        Ok(())
    });
}

/// The image of the stick, written to the one disk of a machine: it boots from there, and keeps its state on the rest.
#[test]
fn image_joins_from_a_disk_that_it_was_written_to_and_keeps_its_state_behind_it() {
    story(|grid| {
        let disk = written(grid, "usb.img", &format!("{}format=rest\r\n", file(grid, "installed")?))?;
        fs::File::options().write(true).open(&disk)?.set_len(3 << 30)?;
        let machine = Machine::installed(&disk, grid, Firmware::Bios)?.start()?;
        let host = is_up(grid, "installed")?;
        machine.says("is made and mounted", BOOT)?;
        drop(machine); // its power is cut
        eventually("it is seen to be away", BOOT, || {
            let seen = grid.api.get("/hosts/installed")?;
            ensure!(seen["state"] != "up", "it is up");
            Ok(())
        })?;
        let machine = Machine::installed(&disk, grid, Firmware::Uefi)?.start()?;
        ensure!(is_up(grid, "installed")? == host, "it came back as another host");
        machine.says("vda3 is mounted", BOOT)
    });
}

/// Firmware without keys takes that of the stick, and from then on starts nothing else; newer images by their own key.
#[test]
fn image_starts_under_secure_boot_where_it_is_signed_and_only_there() {
    story(|grid| {
        let (disk, served) = (grid.folder.join("data.raw"), grid.folder.join("served"));
        fs::File::create(&disk)?.set_len(2 << 30)?;
        let update = format!("http://{HERE}:{}", serve(served.clone())?);
        let file = format!("{}format=blank\nupdate={update}\n", file(grid, "secure")?);
        let stick = Machine::stick(grid, Firmware::SecureBoot, &file)?;
        let machine = stick.disk(&disk).restarting().start()?;
        is_up(grid, "secure")?;
        let runs = |slot: Option<&str>| {
            let seen = grid.api.get("/hosts/secure")?["image"].take();
            ensure!(seen["secure_boot"] == true && seen["slot"].as_str() == slot, "{seen}");
            Ok(())
        };
        runs(None)?;
        offer(&served, 1, false)?;
        grid.roost(&["host", "upgrade", "secure"])?;
        runs(Some("a"))?;
        drop(machine);
        let unsigned = written(grid, "usb.img", "")?;
        let machine = Machine::stick_with(&unsigned, grid, Firmware::SecureBoot)?.start()?;
        machine.says("Access Denied", BOOT)?;
        ensure!(!machine.said().contains("Welcome to"), "{}", machine.said());
        Ok(())
    });
}

#[test]
fn image_boots_on_many_processors() {
    story(|grid| {
        let _machine = Machine::kernel(grid, &answers(grid, "wide")?).processors(96).start()?;
        is_up(grid, "wide")?;
        let seen = grid.api.get("/hosts/wide")?;
        ensure!(seen["cpus"] == 96, "{seen}");
        Ok(())
    });
}

#[test]
fn image_asks_its_questions_at_the_console_and_says_what_is_wrong_with_an_answer() {
    story(|grid| {
        let (address, token) = (grid.lab.address(0), grid.token("typed")?);
        let machine = Machine::kernel(grid, "").typed().start()?;
        machine.says("no connection to an aggregator", BOOT)?;
        let mut keyboard = machine.keyboard()?;
        for (time, token) in [(1, "roost1-nonsense"), (2, token.as_str())] {
            keyboard.types("")?;
            machine.says_so_often("Address of the aggregator", time, BOOT)?;
            keyboard.types(&format!("{address}:{QUIC}"))?;
            machine.says_so_often("Name of this host", time, BOOT)?;
            keyboard.types("typed")?;
            machine.says_so_often("Join token", time, BOOT)?;
            keyboard.types(token)?;
            machine.says_so_often("Press Enter to go on", time, BOOT)?;
            keyboard.types("")?;
        }
        is_up(grid, "typed")?;
        machine.says("connected to the aggregator", BOOT)
    });
}

/// There is no shell otherwise. What an archive behind the initrd brought can be seen in it.
#[test]
fn image_gives_a_shell_at_its_rescue_entry_with_what_was_brought() {
    story(|grid| {
        let firmware = ("extra/usr/lib/firmware/extra.bin", "it was brought");
        let machine = Machine::kernel(grid, "rescue SYSTEMD_SULOGIN_FORCE=1").brought(grid, &[firmware])?;
        let machine = machine.typed().start()?;
        machine.says("Press Enter for system maintenance", BOOT)?;
        let mut keyboard = machine.keyboard()?;
        keyboard.types("")?;
        // What is typed before the prompt is thrown away.
        machine.says("list of built-in commands.~ #", BOOT)?;
        keyboard.types("cat /usr/lib/firmware/extra.bin; echo and $((6 * 7)) processes")?;
        machine.says("it was broughtand 42 processes", BOOT)
    });
}

#[test]
fn image_joins_by_network_boot_with_ipxe() {
    story(|grid| {
        let _machine = Machine::network(grid, &answers(grid, "pxe")?)?.start()?;
        is_up(grid, "pxe").map(drop)
    });
}

#[test]
fn image_with_a_changed_root_is_not_started() {
    story(|grid| {
        let machine = Machine::kernel(grid, &answers(grid, "tampered")?).tampered(grid)?.start()?;
        machine.says("it is damaged or was changed; this host is not started", BOOT)?;
        ensure!(!machine.said().contains("Welcome to"), "{}", machine.said());
        Ok(())
    });
}

#[test]
fn image_says_why_its_aggregator_is_not_reached_and_joins_once_it_is() {
    story(|grid| {
        let parameters = answers(grid, "late")?;
        grid.stop_aggregator()?;
        let machine = Machine::kernel(grid, &parameters).start()?;
        machine.says("no connection to the aggregator: reach the aggregator", BOOT)?;
        grid.start_aggregator()?;
        grid.log_in()?;
        is_up(grid, "late").map(drop)
    });
}

#[test]
fn image_says_why_its_token_is_refused() {
    story(|grid| {
        // Its life is over long before the machine is up.
        let made = grid.api.post("/join-tokens", &serde_json::json!({"name": "late", "ttl_s": 1}))?;
        let token = made["token"].as_str().context("the token")?;
        let parameters = format!("roost.aggregator={}:{QUIC} roost.token={token}", grid.lab.address(0));
        let machine = Machine::kernel(grid, &parameters).start()?;
        machine.says("alarm       the aggregator refused", BOOT)?;
        let hosts = grid.api.get("/hosts")?;
        ensure!(hosts["items"].as_array().is_some_and(Vec::is_empty), "it was let in: {hosts}");
        Ok(())
    });
}

#[test]
fn image_keeps_its_state_on_a_blank_disk_it_was_allowed_to_take_and_leaves_others_alone() {
    story(|grid| {
        let full = grid.folder.join("full.raw");
        fs::File::create(&full)?.set_len(3 << 30)?;
        grid::output(Command::new("mkfs.ext4").args(["-q", "-L", "precious"]).arg(&full))?;
        let before = first_bytes(&full)?;
        let blank = grid.folder.join("blank.raw");
        fs::File::create(&blank)?.set_len(2 << 30)?;
        let parameters = format!("{} roost.format=blank", answers(grid, "disk")?);
        let machine = Machine::kernel(grid, &parameters).disk(&full).disk(&blank).start()?;
        let host = is_up(grid, "disk")?;
        machine.says("is made and mounted", BOOT)?;
        drop(machine); // its power is cut
        eventually("it is seen to be away", BOOT, || {
            let seen = grid.api.get("/hosts/disk")?;
            ensure!(seen["state"] != "up", "it is up");
            Ok(())
        })?;
        let machine = Machine::kernel(grid, &parameters).disk(&full).disk(&blank).start()?;
        ensure!(is_up(grid, "disk")? == host, "it came back as another host");
        machine.says("is mounted", BOOT)?;
        drop(machine);
        ensure!(first_bytes(&full)? == before, "a disk that was not blank was written to");
        Ok(())
    });
}

/// All that a host is for: the folders of its disk were made elsewhere, so that there is a guest to be started.
#[test]
fn image_runs_a_guest_answers_snmp_and_leaves_the_memory_to_guests() {
    story(|grid| {
        let guest = grid.lab.guest_folder()?.join("mb.elf");
        let images = format!("images d--755 0 0\nmb.elf ---644 0 0 {}\n$\n", guest.display());
        let disk = data_disk(grid, &format!("roost d--711 0 0\n{images}$\n"))?;
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let parameters = format!("{} roost.community=watch", answers(grid, "whole")?);
        let machine = Machine::kernel(grid, &parameters).disk(&disk).monitored(port).start()?;
        is_up(grid, "whole")?;
        machine.says("is mounted", BOOT)?;
        ensure!(grid.roost(&["host", "list"])?.contains("whole"), "it is not listed");
        let root = fs::metadata(image().context("ROOST_IMAGE")?.join("root.img"))?.len() >> 20;
        let used = grid::until("little memory is used beside the root image", BOOT, || {
            let seen = grid.api.get("/hosts/whole")?;
            let mib = |name: &str| seen[name].as_u64().with_context(|| format!("{name} of {seen}"));
            let used = mib("memory_mib")?.saturating_sub(mib("memory_available_mib")?);
            ensure!(used < USED_MIB + root, "{used} MiB of {}, the root image has {root}", seen["memory_mib"]);
            Ok(used)
        })?;
        eprintln!("{used} MiB are used after boot, {root} of them by the root image");
        let tiny = grid::tiny("inside", "whole", true);
        let made = grid.api.post("/guests", &tiny)?;
        let made = grid.api.ended(&made, BOOT)?;
        ensure!(made["state"] == "succeeded", "{made}");
        grid.await_guest("inside", "running", BOOT)?;
        machine.says("guests      1 running", BOOT)?;
        eventually("snmpd answers, and the guest is told", BOOT, || {
            let told = walk(port, "watch")?;
            ensure!(told.contains("\"inside\""), "{told}");
            Ok(())
        })?;
        ensure!(walk(port, "guess").is_err(), "who does not know the word is answered");
        Ok(())
    });
}

#[test]
fn image_takes_a_newer_one_by_itself_and_keeps_it_once_it_came_up() {
    story(|grid| {
        let (disk, served) = (grid.folder.join("data.raw"), grid.folder.join("served"));
        fs::File::create(&disk)?.set_len(2 << 30)?;
        let update = format!("http://{HERE}:{}", serve(served.clone())?);
        let parameters = format!("{} roost.format=blank roost.update={update}", answers(grid, "new")?);
        offer(&served, 1, false)?;
        let machine = Machine::kernel(grid, &parameters).disk(&disk).start()?;
        machine.says("is in slot a: the next start uses it", BOOT)?;
        drop(machine); // its power is cut
        offer(&served, 2, false)?;
        let machine = Machine::kernel(grid, &parameters).disk(&disk).start()?;
        machine.says("runs, from slot a", 2 * BOOT)?;
        machine.says("is good", BOOT)?;
        machine.says("is in slot b: the next start uses it", BOOT)
    });
}

/// What an admin does who doesn't wait for the hour: the host is drained, takes what lies at the aggregator, starts it and
/// takes part again.
#[test]
fn image_is_brought_to_a_newer_one_by_one_command() {
    story(|grid| {
        let (disk, served) = (grid.folder.join("data.raw"), grid.folder.join("aggregator/image"));
        fs::File::create(&disk)?.set_len(2 << 30)?;
        let parameters = format!("{} roost.format=blank", answers(grid, "old")?);
        let machine = Machine::kernel(grid, &parameters).disk(&disk).restarting().start()?;
        let host = is_up(grid, "old")?;
        let none = grid.roost(&["host", "upgrade", "old"]).err().context("an upgrade to nothing")?;
        ensure!(format!("{none:#}").contains("the aggregator has no image"), "{none:#}");
        offer(&served, 1, false)?;
        grid.roost(&["host", "upgrade", "old"])?;
        let seen = grid.api.get("/hosts/old")?;
        ensure!(seen["id"] == host.as_str() && seen["image"]["slot"] == "a", "{seen}");
        ensure!(seen["maintenance"].is_null() && seen["image"]["next"].is_null(), "{seen}");
        machine.says("is good", BOOT)?;
        let found = grid.roost(&["host", "fetch-image", "old", "-o", "json"])?;
        ensure!(found.contains("none"), "{found}");
        Ok(())
    });
}

/// The broken one is well signed, and its first stage starts nothing.
#[test]
fn image_goes_back_from_a_broken_one_to_the_one_before_and_raises_an_alarm() {
    story(|grid| {
        let (older, broken) = (grid.folder.join("older"), grid.folder.join("broken"));
        offer(&older, 1, false)?;
        offer(&broken, 2, true)?;
        let slot = |name: &str, from: &Path| {
            let file = |file: &str| format!("{file} ---600 0 0 {}\n", from.join(file).display());
            format!("{name} d--700 0 0\n{}{}{}$\n", file("vmlinuz"), file("initrd.img"), file("manifest"))
        };
        let folders = format!("image d--700 0 0\n{}{}$\n", slot("a", &older), slot("b", &broken));
        let disk = data_disk(grid, &folders)?;
        let machine = Machine::kernel(grid, &answers(grid, "back")?).disk(&disk).restarting().start()?;
        for start in 1..=2 {
            machine.says_so_often("this host is not started", start, 2 * BOOT)?;
        }
        machine.says("is not used: 2 starts of it came to nothing", 2 * BOOT)?;
        machine.says("runs, from slot a", BOOT)?;
        is_up(grid, "back")?;
        let seen = grid.api.get("/hosts/back")?;
        ensure!(seen["image"]["slot"] == "a", "{}", seen["image"]);
        eventually("an alarm tells of it", BOOT, || {
            let alarms = grid.api.get("/alarms?host=back")?.to_string();
            ensure!(alarms.contains("image-passed-over") && alarms.contains("2 starts"), "{alarms}");
            Ok(())
        })?;
        machine.says("is good", BOOT)?;
        machine.says_so_often("this host is not started", 2, BOOT)
    });
}

#[test]
fn image_takes_the_card_with_the_cable_where_none_was_named() {
    story(|grid| {
        let machine = Machine::kernel(grid, &answers(grid, "plugged")?).plugged_elsewhere().start()?;
        machine.says(&format!("({SECOND}) is used"), BOOT)?;
        is_up(grid, "plugged").map(drop)
    });
}

#[test]
fn image_uses_the_address_that_was_answered_instead_of_dhcp_s() {
    story(|grid| {
        let parameters = format!("{} roost.address=10.0.2.77/24 roost.gateway={HERE}", answers(grid, "fixed")?);
        let machine = Machine::kernel(grid, &parameters).start()?;
        is_up(grid, "fixed")?;
        let seen = grid.api.get("/hosts/fixed")?;
        ensure!(seen["addresses"][0] == "10.0.2.77", "{seen}");
        machine.says("10.0.2.77", BOOT)
    });
}

/// The fence of every takeover, end to end: the guard stops petting, the machine is reset, and the next boot has seen when.
#[test]
fn image_is_ended_by_its_watchdog_in_time_and_comes_back_as_the_same_host() {
    story(|grid| {
        let disk = data_disk(grid, "")?;
        let machine = Machine::kernel(grid, &answers(grid, "dog")?).disk(&disk).watched().start()?;
        let host = is_up(grid, "dog")?;
        let tested = |wanted: &str| {
            let seen = grid.api.get("/hosts/dog")?;
            ensure!(seen["watchdog_test"]["result"] == wanted, "{seen}");
            Ok(seen)
        };
        let seen = grid::until("its watchdog is found", BOOT, || tested("untested"))?;
        ensure!(seen["watchdog"] == "hardware", "{seen}");
        ensure!(seen["watchdog_detail"].as_str().is_some_and(|name| name.contains("i6300ESB")), "{seen}");
        grid.roost(&["host", "maintenance", "dog"])?;
        grid.roost(&["host", "test-watchdog", "dog"])?;
        let seen = grid::until("it was ended, and tells when", 2 * BOOT, || tested("passed"))?;
        eprintln!("{}", seen["watchdog_test"]);
        ensure!(seen["id"] == host.as_str(), "{seen}");
        machine.says_so_often("Welcome to", 2, BOOT)
    });
}

/// A data disk that holds these folders, as one that was used before.
fn data_disk(grid: &Grid, folders: &str) -> Result<PathBuf> {
    let (path, list) = (grid.folder.join("data.raw"), grid.folder.join("list"));
    fs::write(&list, format!("/\n0 0\nd--755 0 0\n{folders}$\n"))?;
    fs::File::create(&path)?.set_len(2 << 30)?;
    let mut make = Command::new("mkfs.xfs");
    grid::output(make.args(["-q", "-L", "ROOST-DATA", "-p"]).arg(&list).arg(&path))?;
    Ok(path)
}

/// What the host's snmpd tells of guests.
fn walk(port: u16, community: &str) -> Result<String> {
    let mut walk = Command::new("snmpwalk");
    walk.args(["-v2c", "-c", community, "-t", "5", "-r", "1", &format!("udp:127.0.0.1:{port}"), VM_MIB])
        .env("MIBS", "");
    grid::output(&mut walk)
}

fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(64 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}
