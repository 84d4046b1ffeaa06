//! A store that was copied away is listed, verified and exported by the program alone, beside nothing but qemu-img.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use data_encoding::HEXLOWER;
use roost_protocol::backup::{Consistency, Why};
use roost_protocol::{GuestId, PointId, Stamp};
use roost_store::{Encryption, Meta, Options, Store};

const SIZE: u64 = 40 << 20;

/// Two points of one guest; gives them with the disks they show.
fn filled(folder: &Path) -> Vec<(PointId, Vec<u8>)> {
    filled_with(folder, Options::default())
}

fn filled_with(folder: &Path, options: Options) -> Vec<(PointId, Vec<u8>)> {
    let store = Store::open(folder, options).unwrap();
    let mut image = vec![0; usize::try_from(SIZE).unwrap()];
    let mut points: Vec<(PointId, Vec<u8>)> = Vec::new();
    for moment in 1..=2_u64 {
        let at = 5_000_000 * usize::try_from(moment).unwrap() / 4_096 * 4_096;
        let mut word = moment;
        for byte in &mut image[at..at + (1 << 20)] {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = word.to_le_bytes()[7];
        }
        let mut draft = store.draft(GuestId::from_u128(5), points.last().map(|(point, _)| *point)).unwrap();
        let mut disk = draft.disk("vda", SIZE).unwrap();
        disk.write(u64::try_from(at).unwrap(), &image[at..at + (1 << 20)]).unwrap();
        disk.close().unwrap();
        draft.file("domain.xml", b"<domain/>").unwrap();
        let (why, consistency) = (Why::Command, Consistency::Crash);
        let started = Stamp(moment * 86_400_000);
        let meta = Meta { started, guest_name: "web".into(), why, consistency, ..Meta::default() };
        points.push((draft.finish(meta).unwrap(), image.clone()));
    }
    points
}

fn agent(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roost-agent")).arg("store").args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A byte of the newest point's content is changed in the copy: it lies behind the middle of the longest pack. Small packs
/// hold maps only.
fn flip(copy: &Path) {
    let packs = fs::read_dir(copy.join("packs")).unwrap().flatten().map(|entry| entry.path());
    let packs = packs.filter(|path| path.extension().is_some_and(|ending| ending == "pack"));
    let pack = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.len() * 3 / 4;
    bytes[at] ^= 1;
    fs::write(pack, bytes).unwrap();
}

fn copied(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_flipped_byte_in_a_copy_is_named_by_guest_disk_and_range_and_the_next_good_point_is_offered() {
    let folder = tempfile::tempdir().unwrap();
    let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
    let points = filled(&live);
    copied(&live, &copy);
    let (live, copy) = (live.to_str().unwrap(), copy.to_str().unwrap());
    let (first, second) = (points[0].0.to_string(), points[1].0.to_string());
    // An agent that has the store open is no hindrance.
    let _open = Store::open(Path::new(live), Options::default()).unwrap();
    let whole = agent(&["verify", live]);
    assert!(whole.status.success() && said(&whole).contains("all 2 points are whole"), "{}", said(&whole));
    let list = said(&agent(&["list", copy]));
    assert!(list.contains(&first) && list.contains("1970-01-03 00:00:00") && list.contains("web"), "{list}");

    flip(Path::new(copy));
    let verify = agent(&["verify", copy]);
    let words = said(&verify);
    assert!(!verify.status.success() && words.contains("guest web (") && words.contains("vda: "), "{words}");
    assert!(words.contains(&second) && !words.contains(&first), "{words}");
    assert!(words.contains(" bytes from 1") && words.contains("1 of 2 points are damaged"), "{words}");

    let out = folder.path().join("out.qcow2");
    let refused = agent(&["export", &second, "--qcow2", out.to_str().unwrap(), "--store", copy]);
    let words = said(&refused);
    assert!(!refused.status.success() && words.contains(&format!("the next good one is {first}")), "{words}");
    assert!(!out.exists());
}

#[test]
fn an_export_that_cannot_be_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (live, there) = (folder.path().join("live"), folder.path().join("there"));
    let point = filled(&live)[0].0.to_string();
    fs::write(&there, b"mine").unwrap();
    let live = live.to_str().unwrap();
    let check = |words: &[&str], wanted: &str| {
        let output = agent(words);
        assert!(!output.status.success() && said(&output).contains(wanted), "{}", said(&output));
    };
    let (there, none) = (there.to_str().unwrap(), folder.path().join("none"));
    let none = none.to_str().unwrap();
    let unknown = PointId::from_u128(1).to_string();
    check(&["export", &point, "--qcow2", there, "--store", live], "is there already");
    check(&["export", &unknown, "--qcow2", none, "--store", live], "has no point");
    check(&["export", &point, "--qcow2", none, "--store", live, "--disk", "vdb"], "it has vda");
    check(&["verify", none], "open the store");
    assert_eq!(fs::read(there).unwrap(), b"mine");
}

#[test]
fn real_export_is_equal_to_the_disk_to_the_last_byte() {
    if std::env::var("ROOST_REAL").as_deref() != Ok("1") {
        return eprintln!("skipped, as ROOST_REAL=1 is not set");
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let points = filled(Path::new(&at("live")));
    copied(Path::new(&at("live")), Path::new(&at("copy")));
    for (number, (point, content)) in points.iter().enumerate() {
        let (qcow2, raw, xml) =
            (at(&format!("{number}.qcow2")), at(&format!("{number}.raw")), at(&format!("{number}.xml")));
        fs::write(&raw, content).unwrap();
        let point = point.to_string();
        let words = ["export", &point, "--qcow2", &qcow2, "--store", &at("copy"), "--definition", &xml];
        let output = agent(&words);
        assert!(output.status.success(), "{}", said(&output));
        let same = Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2", &raw, &qcow2]).output();
        assert!(same.unwrap().status.success());
        assert_eq!(fs::read(xml).unwrap(), b"<domain/>");
    }
    assert!(fs::read_dir(folder.path()).unwrap().flatten().all(|entry| !entry.path().ends_with(".part")));
}

#[test]
fn an_encrypted_store_is_verified_and_exported_with_its_key_file_only() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, other, live) = (at("backup.key"), at("other.key"), at("live"));
    for file in [&key, &other] {
        assert!(agent(&["new-key", file]).status.success());
    }
    let hex = |text: &str| -> [u8; 32] { HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap() };
    let text = fs::read_to_string(&key).unwrap();
    let secrets: Vec<[u8; 32]> = text.split('"').filter(|part| part.len() == 64).map(hex).collect();
    let encryption = Encryption { domain: secrets[0], current: secrets[1], older: Vec::new() };
    let options = Options { encryption: Some(encryption), ..Options::default() };
    let points = filled_with(Path::new(&live), options);
    assert!(agent(&["rotate-key", &key]).status.success());
    let whole = agent(&["verify", &live, "--key", &key]);
    assert!(whole.status.success() && said(&whole).contains("all 2 points are whole"), "{}", said(&whole));
    let out = at("out.qcow2");
    let export = agent(&["export", &points[1].0.to_string(), "--qcow2", &out, "--store", &live, "--key", &key]);
    assert!(export.status.success() && Path::new(&out).exists(), "{}", said(&export));
    for words in [vec!["verify", &live], vec!["verify", &live, "--key", &other]] {
        let refused = agent(&words);
        assert!(!refused.status.success() && said(&refused).contains("are named by"), "{}", said(&refused));
    }
}

#[test]
fn a_point_is_copied_to_another_store_and_removed_there_by_the_program_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (live, nas) = (at("live"), at("nas"));
    let points = filled(Path::new(&live));
    let _open = Store::open(Path::new(&live), Options::default()).unwrap();
    let (first, second) = (points[0].0.to_string(), points[1].0.to_string());
    for point in [&first, &second, &second] {
        let copied = agent(&["copy", point, "--from", &live, "--to", &nas]);
        assert!(copied.status.success(), "{}", said(&copied));
    }
    let removed = agent(&["remove", &first, &first, "--store", &nas]);
    assert!(removed.status.success(), "{}", said(&removed));
    let list = said(&agent(&["list", &nas]));
    assert!(list.contains(&second) && !list.contains(&first), "{list}");
    assert!(agent(&["verify", &nas]).status.success());
    // Whoever started it tells by its end what was wrong.
    assert_eq!(
        agent(&["copy", &PointId::from_u128(1).to_string(), "--from", &live, "--to", &nas]).status.code(),
        Some(30)
    );
    flip(Path::new(&live));
    assert_eq!(agent(&["copy", &second, "--from", &live, "--to", &at("other")]).status.code(), Some(29));
}
