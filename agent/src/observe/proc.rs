//! Reads the kernel's tables in /proc without copying: each parser takes the bytes of one file.

/// CPU time of the machine, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTicks {
    pub(crate) busy: u64,
    pub(crate) all: u64,
}

/// Memory of the machine, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) available_kib: u64,
    pub(crate) swap_used_kib: u64,
}

/// The first line of `/proc/stat`. Guest time is contained in user time, waiting for disks is idle time.
pub(crate) fn cpu(stat: &[u8]) -> Option<CpuTicks> {
    let line = stat.split(|byte| *byte == b'\n').next()?.strip_prefix(b"cpu ")?;
    let mut all = 0u64;
    let mut idle = 0u64;
    for (index, field) in fields(line).take(8).enumerate() {
        let ticks = number(field)?;
        all = all.saturating_add(ticks);
        if index == 3 || index == 4 {
            idle = idle.saturating_add(ticks);
        }
    }
    Some(CpuTicks { busy: all - idle, all })
}

/// `/proc/meminfo`.
pub(crate) fn memory(meminfo: &[u8]) -> Option<Memory> {
    let value = |name: &[u8]| {
        let line = meminfo.split(|byte| *byte == b'\n').find(|line| line.starts_with(name))?;
        number(fields(&line[name.len()..]).next()?)
    };
    let swap_used_kib = value(b"SwapTotal:").unwrap_or(0).saturating_sub(value(b"SwapFree:").unwrap_or(0));
    Some(Memory { available_kib: value(b"MemAvailable:")?, swap_used_kib })
}

/// One-minute load of `/proc/loadavg`, in hundredths.
pub(crate) fn load_centi(loadavg: &[u8]) -> Option<u32> {
    centi(fields(loadavg).next()?)
}

/// `some avg10` of a file in `/proc/pressure`, in hundredths of a percent.
pub(crate) fn pressure_centi(file: &[u8]) -> Option<u32> {
    let line = file.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"some "))?;
    centi(fields(line).find_map(|field| field.strip_prefix(b"avg10="))?)
}

/// Name, bytes received and bytes sent of each line of `/proc/net/dev`.
pub(crate) fn nics(dev: &[u8]) -> impl Iterator<Item = (&str, u64, u64)> {
    dev.split(|byte| *byte == b'\n').skip(2).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(line[..colon].trim_ascii()).ok()?;
        let mut counters = fields(&line[colon + 1..]);
        let received = number(counters.next()?)?;
        let sent = number(counters.nth(7)?)?;
        Some((name, received, sent))
    })
}

/// User and system time of `/proc/PID/stat`, ticks. The command's name may hold anything, so fields count from its end.
pub(crate) fn process_ticks(stat: &[u8]) -> Option<u64> {
    let mut fields = after_name(stat)?;
    let user = number(fields.nth(11)?)?;
    Some(user.saturating_add(number(fields.next()?)?))
}

/// When the process started, in ticks since the kernel's boot.
pub(crate) fn process_start(stat: &[u8]) -> Option<u64> {
    number(after_name(stat)?.nth(19)?)
}

/// Resident pages of `/proc/PID/statm`.
pub(crate) fn resident_pages(statm: &[u8]) -> Option<u64> {
    number(fields(statm).nth(1)?)
}

/// Bytes read from and written to disks, of `/proc/PID/io`.
pub(crate) fn disk_bytes(io: &[u8]) -> Option<(u64, u64)> {
    let value = |name: &[u8]| {
        let line = io.split(|byte| *byte == b'\n').find(|line| line.starts_with(name))?;
        number(fields(&line[name.len()..]).next()?)
    };
    Some((value(b"read_bytes:")?, value(b"write_bytes:")?))
}

fn after_name(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    Some(fields(&stat[end + 1..]))
}

fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty())
}

/// A file that holds one number.
pub(super) fn count(bytes: &[u8]) -> Option<u64> {
    number(bytes.trim_ascii_end())
}

fn number(field: &[u8]) -> Option<u64> {
    if field.is_empty() {
        return None;
    }
    field.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// A number with up to two digits behind the point, in hundredths.
fn centi(field: &[u8]) -> Option<u32> {
    let (whole, part) = match field.iter().position(|byte| *byte == b'.') {
        Some(point) => (&field[..point], &field[point + 1..]),
        None => (field, &b""[..]),
    };
    let part = match part {
        [] => 0,
        [tenth] => number(&[*tenth])? * 10,
        [tenth, hundredth, ..] => number(&[*tenth, *hundredth])?,
    };
    u32::try_from(number(whole)?.checked_mul(100)?.checked_add(part)?).ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_machines_tables_are_read() {
        let stat = b"cpu  100 0 50 800 40 5 5 0 30 0\ncpu0 1 2\n";
        assert_eq!(cpu(stat), Some(CpuTicks { busy: 160, all: 1_000 }));
        let meminfo = b"MemTotal: 9 kB\nMemAvailable:  1024 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";
        assert_eq!(memory(meminfo), Some(Memory { available_kib: 1_024, swap_used_kib: 6 }));
        assert_eq!(load_centi(b"12.34 1.00 1.00 1/2 3\n"), Some(1_234));
        assert_eq!(pressure_centi(b"some avg10=1.50 avg60=0.00 total=1\nfull avg10=9.00\n"), Some(150));
        let dev = b"Inter-| x\n face |\n    lo: 1 2 3 4 5 6 7 8 9 10 11\neth0:10 0 0 0 0 0 0 0 20 0 0\n";
        assert_eq!(nics(dev).collect::<Vec<_>>(), [("lo", 1, 9), ("eth0", 10, 20)]);
    }

    #[test]
    fn a_process_with_a_hostile_name_is_read() {
        let stat = b"42 (a) R 1) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0 1 0 5555 0";
        assert_eq!(process_ticks(stat), Some(100));
        assert_eq!(process_start(stat), Some(5_555));
        assert_eq!(resident_pages(b"100 25 3\n"), Some(25));
        assert_eq!(disk_bytes(b"rchar: 1\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 7\n"), Some((5, 6)));
    }

    #[test]
    fn nonsense_is_nothing() {
        for bytes in [&b""[..], b"cpu", b"cpu x", b"some avg10=", b"(", b")", b"-1", b"99999999999999999999 1"] {
            assert_eq!(
                (cpu(bytes).filter(|ticks| ticks.all > 0), memory(bytes), pressure_centi(bytes)),
                (None, None, None)
            );
            assert_eq!(count(bytes), None);
            assert_eq!((process_ticks(bytes), disk_bytes(bytes), nics(bytes).count()), (None, None, 0));
        }
    }
}
