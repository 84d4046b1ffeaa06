//! Which disk is the data disk. Nothing that holds anything is ever written to.

use serde::Deserialize;

use super::answers::Answers;

/// Label of the data disk's file system, and name of the part that is made for it.
pub(super) const LABEL: &str = "ROOST-DATA";
/// Label of the boot partition of a stick, or of the disk that its image was written to.
pub(super) const BOOT: &str = "ROOST-BOOT";
/// Parts that the stick's image has.
const BROUGHT: usize = 2;
/// Smallest disk that is made a data disk, in bytes.
const SMALLEST: u64 = 1 << 30;

/// A disk or a part of one, as lsblk tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) path: String,
    pub(super) label: String,
    pub(super) file_system: String,
    pub(super) bytes: u64,
    /// A whole disk that can be written and stays where it is.
    pub(super) stays: bool,
    /// One of those that holds no table, no file system and no parts.
    pub(super) blank: bool,
    /// Which parts it has, by their paths.
    pub(super) parts: Vec<String>,
    /// Of a part: its name in the disk's table.
    pub(super) part_name: String,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Mount(String),
    Format(String),
    /// Make a part of the room that is left on this disk, and look again.
    Divide(String),
    /// Run without; why.
    None(String),
}

/// Decides by what is there and what was allowed.
pub(super) fn choose(disks: &[Disk], answers: &Answers) -> Choice {
    if !answers.data {
        return Choice::None("data=none was asked for".into());
    }
    let ours: Vec<&Disk> = disks.iter().filter(|disk| disk.label == LABEL).collect();
    match ours[..] {
        [disk] if disk.file_system == "xfs" => Choice::Mount(disk.path.clone()),
        [disk] => Choice::None(format!("{} has the label but holds {:?}, not xfs", disk.path, disk.file_system)),
        [] => match &answers.format {
            None => Choice::None(format!("no disk is labelled {LABEL}, and none was allowed by format=")),
            Some(wish) => fresh(disks, wish),
        },
        [one, other, ..] => Choice::None(format!("{} and {} are both labelled {LABEL}", one.path, other.path)),
    }
}

/// Behind the stick's image, which was written to a disk of this machine.
fn rest(disks: &[Disk]) -> Choice {
    let find = |path: &String| disks.iter().find(|disk| disk.path == *path);
    let holds = |disk: &&Disk| disk.parts.iter().filter_map(find).any(|part| part.label == BOOT);
    let Some(whole) = disks.iter().filter(holds).min_by_key(|disk| !disk.stays) else {
        return Choice::None(format!(
            "format=rest is for a disk with the stick's image on it, and none has a part {BOOT}"
        ));
    };
    let path = &whole.path;
    let ours = |part: &&Disk| part.part_name == LABEL && part.file_system.is_empty();
    let used: u64 = whole.parts.iter().filter_map(find).map(|part| part.bytes).sum();
    match whole.parts.iter().filter_map(find).find(ours) {
        _ if !whole.stays => {
            Choice::None(format!("{path} has the boot partition and can be pulled: no data is put there"))
        }
        // Its power was cut before there was a file system.
        Some(part) => Choice::Format(part.path.clone()),
        None if whole.parts.len() != BROUGHT => Choice::None(format!("{path} has other parts than the stick's image")),
        None if whole.bytes.saturating_sub(used) < SMALLEST => Choice::None(format!("{path} has less than 1 GiB left")),
        None => Choice::Divide(path.clone()),
    }
}

fn fresh(disks: &[Disk], wish: &str) -> Choice {
    if wish == "rest" {
        return rest(disks);
    }
    if wish != "blank" {
        return match disks.iter().find(|disk| disk.path == wish) {
            Some(disk) if disk.blank && disk.bytes >= SMALLEST => Choice::Format(disk.path.clone()),
            Some(disk) if disk.blank => Choice::None(format!("{wish} is smaller than 1 GiB")),
            Some(_) => Choice::None(format!("{wish} is not blank, so it is left as it is")),
            None => Choice::None(format!("there is no disk {wish}")),
        };
    }
    let blank = disks.iter().filter(|disk| disk.blank && disk.bytes >= SMALLEST);
    // The largest; of equal ones the first by name.
    match blank.min_by_key(|disk| (std::cmp::Reverse(disk.bytes), disk.path.clone())) {
        Some(disk) => Choice::Format(disk.path.clone()),
        None => Choice::None("there is no blank disk of 1 GiB or more".into()),
    }
}

#[derive(Debug, Deserialize)]
struct Told {
    blockdevices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
struct Device {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    size: Option<u64>,
    rm: bool,
    ro: bool,
    tran: Option<String>,
    fstype: Option<String>,
    label: Option<String>,
    partlabel: Option<String>,
    pttype: Option<String>,
    #[serde(default)]
    children: Vec<Device>,
}

/// All disks and their parts, from `lsblk --json --bytes`.
pub(super) fn parse(told: &[u8]) -> Result<Vec<Disk>, serde_json::Error> {
    let mut disks = Vec::new();
    let mut waiting = serde_json::from_slice::<Told>(told)?.blockdevices;
    while let Some(device) = waiting.pop() {
        let stays = !device.rm && !device.ro && device.tran.as_deref() != Some("usb");
        let whole = device.kind == "disk" && !["zram", "nbd", "ram"].iter().any(|word| device.path.contains(word));
        let empty = device.fstype.is_none() && device.pttype.is_none() && device.children.is_empty();
        disks.push(Disk {
            path: device.path,
            label: device.label.unwrap_or_default(),
            file_system: device.fstype.unwrap_or_default(),
            bytes: device.size.unwrap_or(0),
            stays: stays && whole,
            blank: stays && whole && empty,
            parts: device.children.iter().map(|part| part.path.clone()).collect(),
            part_name: device.partlabel.unwrap_or_default(),
        });
        waiting.extend(device.children);
    }
    disks.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(disks)
}

#[cfg(test)]
mod test {
    use super::*;

    fn disk(path: &str, label: &str, gib: u64, blank: bool) -> Disk {
        let file_system = if label.is_empty() { "" } else { "xfs" };
        let (path, label, file_system) = (path.into(), label.into(), file_system.into());
        Disk { path, label, file_system, bytes: gib << 30, blank, stays: true, ..Disk::default() }
    }

    fn wish(format: Option<&str>) -> Answers {
        Answers { format: format.map(Into::into), ..Answers::default() }
    }

    fn none(choice: &Choice, word: &str) {
        assert!(matches!(choice, Choice::None(why) if why.contains(word)), "{choice:?}");
    }

    #[test]
    fn the_labelled_disk_is_taken_and_two_of_them_are_not() {
        let (ours, other) = (disk("/dev/sda1", LABEL, 5, false), disk("/dev/sdb", "", 9, true));
        let mount = Choice::Mount("/dev/sda1".into());
        assert_eq!(choose(&[ours.clone(), other.clone()], &wish(None)), mount);
        assert_eq!(choose(&[ours.clone(), other], &wish(Some("blank"))), mount, "never a second one");
        let twin = disk("/dev/sdc", LABEL, 5, false);
        none(&choose(&[ours.clone(), twin], &wish(Some("blank"))), "both");
        none(&choose(&[Disk { file_system: "ext4".into(), ..ours.clone() }], &wish(Some("blank"))), "ext4");
        none(&choose(&[ours], &Answers { data: false, ..Answers::default() }), "asked for");
    }

    #[test]
    fn nothing_is_formatted_unless_it_is_blank_and_that_was_allowed() {
        let disks = [disk("/dev/sda", "", 50, false), disk("/dev/sdb", "", 2, true), disk("/dev/sdc", "", 9, true)];
        none(&choose(&disks, &wish(None)), "format=");
        assert_eq!(choose(&disks, &wish(Some("blank"))), Choice::Format("/dev/sdc".into()), "the largest");
        assert_eq!(choose(&disks, &wish(Some("/dev/sdb"))), Choice::Format("/dev/sdb".into()));
        none(&choose(&disks, &wish(Some("/dev/sda"))), "left as it is");
        none(&choose(&disks, &wish(Some("/dev/sdx"))), "no disk");
        none(&choose(&disks[..1], &wish(Some("blank"))), "no blank disk");
        none(&choose(&[disk("/dev/vda", "", 0, true)], &wish(Some("/dev/vda"))), "smaller");
    }

    #[test]
    fn the_rest_of_a_disk_is_taken_where_the_stick_s_image_was_written_to_it_alone() {
        let parts = |count: usize| (1..=count).map(|number| format!("/dev/sda{number}")).collect::<Vec<_>>();
        let whole = Disk { parts: parts(2), ..disk("/dev/sda", "", 50, false) };
        let bios = Disk { file_system: String::new(), ..disk("/dev/sda1", "", 0, false) };
        let boot = Disk { file_system: "vfat".into(), ..disk("/dev/sda2", BOOT, 0, false) };
        let (wish, all) = (wish(Some("rest")), [whole.clone(), bios.clone(), boot.clone()]);
        assert_eq!(choose(&all, &wish), Choice::Divide("/dev/sda".into()));
        let with = |whole: Disk, part: Option<Disk>| {
            let all = [whole, bios.clone(), boot.clone()];
            choose(&all.into_iter().chain(part).collect::<Vec<_>>(), &wish)
        };
        none(&choose(&[disk("/dev/sda", "", 50, true)], &wish), "none has a part");
        none(&with(Disk { stays: false, ..whole.clone() }, None), "pulled");
        none(&with(Disk { bytes: 1 << 29, ..whole.clone() }, None), "less than 1 GiB");
        let more = Disk { parts: parts(3), ..whole };
        let part = Disk { part_name: LABEL.into(), file_system: String::new(), ..disk("/dev/sda3", "", 49, false) };
        assert_eq!(with(more.clone(), Some(part.clone())), Choice::Format("/dev/sda3".into()), "it was begun");
        none(&with(more.clone(), Some(Disk { part_name: "home".into(), ..part.clone() })), "other parts");
        none(&with(more.clone(), Some(Disk { file_system: "ext4".into(), ..part.clone() })), "other parts");
        let done = Disk { label: LABEL.into(), file_system: "xfs".into(), ..part };
        assert_eq!(with(more, Some(done)), Choice::Mount("/dev/sda3".into()));
    }

    #[test]
    fn what_lsblk_tells_is_read() {
        let told = br#"{"blockdevices": [
            {"path":"/dev/vda","type":"disk","size":2147483648,"rm":false,"ro":false,"tran":"virtio","fstype":null,"label":null,"pttype":null},
            {"path":"/dev/sda","type":"disk","size":9,"rm":false,"ro":false,"tran":"sata","fstype":null,"label":null,"pttype":"gpt",
             "children":[{"path":"/dev/sda1","type":"part","size":8,"rm":false,"ro":false,"tran":null,"fstype":"xfs","label":"ROOST-DATA","partlabel":"data","pttype":"gpt"}]},
            {"path":"/dev/sdb","type":"disk","size":4000000000,"rm":true,"ro":false,"tran":"usb","fstype":null,"label":null,"pttype":null},
            {"path":"/dev/sdc","type":"disk","size":4000000000,"rm":false,"ro":true,"tran":null,"fstype":null,"label":null,"pttype":null},
            {"path":"/dev/nbd0","type":"disk","size":4000000000,"rm":false,"ro":false,"tran":null,"fstype":null,"label":null,"pttype":null},
            {"path":"/dev/loop0","type":"loop","size":80000000,"rm":false,"ro":true,"tran":null,"fstype":"squashfs","label":null,"pttype":null}]}"#;
        let disks = parse(told).unwrap();
        let blank: Vec<&str> = disks.iter().filter(|disk| disk.blank).map(|disk| disk.path.as_str()).collect();
        assert_eq!(blank, ["/dev/vda"]);
        let whole = disks.iter().find(|disk| disk.path == "/dev/sda").unwrap();
        assert_eq!((whole.stays, &whole.parts[..]), (true, &["/dev/sda1".to_owned()][..]));
        assert!(disks.iter().any(|disk| disk.part_name == "data" && !disk.stays));
        assert_eq!(choose(&disks, &wish(None)), Choice::Mount("/dev/sda1".into()));
        assert!(parse(b"lsblk: cannot").is_err());
    }
}
