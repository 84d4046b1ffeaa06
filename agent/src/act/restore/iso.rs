//! A CD image with a few small files (ISO 9660 with Joliet names), as cloud-init and Windows look for their answers on.
//! Layout: ECMA-119 and Microsoft's Joliet specification.

/// Bytes of a sector.
const SECTOR: usize = 2_048;
/// First sector of the descriptors, by the standard.
const SYSTEM: usize = 16;
/// Descriptors (primary, Joliet, end), then path tables (little and big endian for both), then the two root folders.
const PATHS: usize = SYSTEM + 3;
const ROOT: usize = PATHS + 4;
const JOLIET_ROOT: usize = ROOT + 1;
const DATA: usize = ROOT + 2;
/// A fixed date, so that the same answers give the same image: 1 January 2026.
const DATE: [u8; 7] = [126, 1, 1, 0, 0, 0, 0];

/// Which names a folder has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Plain,
    Joliet,
}

/// The image. Names have at most 30 plain characters, and few files fit into the one sector of each folder.
pub(super) fn image(label: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0; DATA * SECTOR];
    let mut places = Vec::new();
    for (name, content) in files {
        places.push((*name, out.len() / SECTOR, content.len()));
        out.extend(*content);
        out.resize(out.len().next_multiple_of(SECTOR), 0);
    }
    let sectors = out.len() / SECTOR;
    for (at, names, root, paths) in [(0, Names::Plain, ROOT, PATHS), (1, Names::Joliet, JOLIET_ROOT, PATHS + 2)] {
        put(&mut out, SYSTEM + at, &descriptor(names, label, sectors, root, paths));
        put(&mut out, paths, &path_table(u32::to_le_bytes(number(root)), [1, 0]));
        put(&mut out, paths + 1, &path_table(u32::to_be_bytes(number(root)), [0, 1]));
        put(&mut out, root, &folder(names, root, &places));
    }
    put(&mut out, SYSTEM + 2, b"\xffCD001\x01");
    out
}

fn put(out: &mut [u8], sector: usize, bytes: &[u8]) {
    out[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A number in both byte orders.
fn both(value: usize) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&number(value).to_le_bytes());
    out[4..].copy_from_slice(&number(value).to_be_bytes());
    out
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn descriptor(names: Names, label: &str, sectors: usize, root: usize, paths: usize) -> Vec<u8> {
    let mut out = vec![0; SECTOR];
    out[0] = if names == Names::Plain { 1 } else { 2 };
    out[1..7].copy_from_slice(b"CD001\x01");
    // System, volume, and (from 190) set, publisher, preparer, application and file names.
    for (from, to) in [(8, 72), (190, 813)] {
        let blank: &[u8] = if names == Names::Plain { b" " } else { b"\0 " };
        out[from..to].iter_mut().zip(blank.iter().cycle()).for_each(|(byte, blank)| *byte = *blank);
    }
    let label = if names == Names::Plain { label.as_bytes().to_vec() } else { wide(label) };
    out[40..40 + label.len().min(32)].copy_from_slice(&label[..label.len().min(32)]);
    out[80..88].copy_from_slice(&both(sectors));
    if names == Names::Joliet {
        out[88..91].copy_from_slice(b"%/E");
    }
    out[120..124].copy_from_slice(&[1, 0, 0, 1]);
    out[124..128].copy_from_slice(&[1, 0, 0, 1]);
    out[128..132].copy_from_slice(&[0, 8, 8, 0]);
    out[132..140].copy_from_slice(&both(10));
    out[140..144].copy_from_slice(&number(paths).to_le_bytes());
    out[148..152].copy_from_slice(&number(paths + 1).to_be_bytes());
    let record = record(&[0], root, SECTOR, true);
    out[156..156 + record.len()].copy_from_slice(&record);
    for from in [813, 830, 847, 864] {
        out[from..from + 16].copy_from_slice(b"2026010100000000");
    }
    out[881] = 1;
    out
}

/// The one entry: the root folder.
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut out = vec![1, 0];
    out.extend(root);
    out.extend(parent);
    out.extend([0, 0]);
    out
}

fn folder(names: Names, root: usize, places: &[(&str, usize, usize)]) -> Vec<u8> {
    let mut out = record(&[0], root, SECTOR, true);
    out.extend(record(&[1], root, SECTOR, true));
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    for (name, sector, length) in sorted {
        let name = match names {
            Names::Plain => format!("{}.;1", name.to_ascii_uppercase().replace('.', "_")).into_bytes(),
            Names::Joliet => wide(name),
        };
        out.extend(record(&name, sector, length, false));
    }
    out.truncate(SECTOR);
    out
}

fn record(name: &[u8], sector: usize, length: usize, folder: bool) -> Vec<u8> {
    let size = (33 + name.len()).next_multiple_of(2);
    let mut out = vec![u8::try_from(size).unwrap_or(u8::MAX), 0];
    out.extend(both(sector));
    out.extend(both(length));
    out.extend(DATE);
    out.extend([if folder { 2 } else { 0 }, 0, 0, 1, 0, 0, 1]);
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend(name);
    out.resize(size, 0);
    out
}
