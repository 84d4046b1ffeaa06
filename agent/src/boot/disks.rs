//! Which disk is the data disk. Nothing that holds anything is ever written to.

use serde::Deserialize;

use super::answers::Answers;

/// Label of the data disk's file system.
pub(super) const LABEL: &str = "ROOST-DATA";
/// Smallest disk that is made a data disk, in bytes.
const SMALLEST: u64 = 1 << 30;

/// A disk or a part of one, as lsblk tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) path: String,
    pub(super) label: String,
    pub(super) file_system: String,
    pub(super) bytes: u64,
    /// A whole disk that can be written, stays where it is, and holds no table, no file system and no parts.
    pub(super) blank: bool,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Mount(String),
    Format(String),
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

fn fresh(disks: &[Disk], wish: &str) -> Choice {
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
            blank: stays && whole && empty,
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
        Disk { path: path.into(), label: label.into(), file_system: file_system.into(), bytes: gib << 30, blank }
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
    fn what_lsblk_tells_is_read() {
        let told = br#"{"blockdevices": [
            {"path":"/dev/vda","type":"disk","size":2147483648,"rm":false,"ro":false,"tran":"virtio","fstype":null,"label":null,"pttype":null},
            {"path":"/dev/sda","type":"disk","size":9,"rm":false,"ro":false,"tran":"sata","fstype":null,"label":null,"pttype":"gpt",
             "children":[{"path":"/dev/sda1","type":"part","size":8,"rm":false,"ro":false,"tran":null,"fstype":"xfs","label":"ROOST-DATA","pttype":"gpt"}]},
            {"path":"/dev/sdb","type":"disk","size":4000000000,"rm":true,"ro":false,"tran":"usb","fstype":null,"label":null,"pttype":null},
            {"path":"/dev/sdc","type":"disk","size":4000000000,"rm":false,"ro":true,"tran":null,"fstype":null,"label":null,"pttype":null},
            {"path":"/dev/nbd0","type":"disk","size":4000000000,"rm":false,"ro":false,"tran":null,"fstype":null,"label":null,"pttype":null},
            {"path":"/dev/loop0","type":"loop","size":80000000,"rm":false,"ro":true,"tran":null,"fstype":"squashfs","label":null,"pttype":null}]}"#;
        let disks = parse(told).unwrap();
        let blank: Vec<&str> = disks.iter().filter(|disk| disk.blank).map(|disk| disk.path.as_str()).collect();
        assert_eq!(blank, ["/dev/vda"]);
        assert_eq!(choose(&disks, &wish(None)), Choice::Mount("/dev/sda1".into()));
        assert!(parse(b"lsblk: cannot").is_err());
    }
}
