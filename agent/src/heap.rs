//! The heap's size: what was freed goes back to the host. Backups and restores take buffers of MiB on many threads for a
//! while; glibc would keep them in an arena per thread, some 300 MiB after the first backups, which no guest could use.
#![expect(unsafe_code, reason = "a system library's three settings, which no crate wraps")]

/// Arenas; the few threads of ours that allocate at once don't wait for each other in two.
const ARENAS: libc::c_int = 2;
/// Bytes from which a buffer is a mapping of its own, gone when freed. glibc raises its own limit to 32 MiB by and by.
const OWN_MAPPING: libc::c_int = 1 << 20;
/// Bytes that may lie free at the end of an arena.
const FREE_AT_END: libc::c_int = 1 << 20;

/// To be called before there are threads.
pub(crate) fn stay_small() {
    for (setting, value) in
        [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, FREE_AT_END)]
    {
        // SAFETY: plain numbers, no pointers; a setting that is not taken leaves the heap as it was.
        unsafe { libc::mallopt(setting, value) };
    }
}

#[cfg(test)]
mod test {
    use std::thread;

    use super::stay_small;

    /// KiB of this process that no file holds.
    fn anonymous() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Buffers of 1 to 8 MiB, as a backup takes them, and a little that stays behind each.
    fn work() -> Vec<Vec<u8>> {
        let sizes = (0..12usize).map(|at| 1 << (20 + at % 4));
        let buffers: Vec<(Vec<u8>, Vec<u8>)> = sizes.map(|size| (vec![1; size], vec![1; 1 << 10])).collect();
        buffers.into_iter().map(|(_, kept)| kept).collect()
    }

    #[test]
    fn what_many_threads_took_and_freed_is_the_host_s_again() {
        stay_small();
        let before = anonymous();
        let mut kept = Vec::new();
        for _ in 0..3 {
            let threads: Vec<_> = (0..4).map(|_| thread::spawn(work)).collect();
            kept.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        }
        let grown = anonymous().saturating_sub(before);
        assert!(kept.len() == 12 && grown < 8 << 10, "{grown} KiB are still held");
    }
}
