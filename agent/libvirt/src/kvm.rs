//! Whether this host's KVM is worth using.
//!
//! `/dev/kvm` opens, makes machines and runs them on hosts where KVM only imitates the processor; there guests run slower
//! than under QEMU's own emulation and die after seconds, while libvirt reports them as started. So two things are asked:
//! that the processor has VT-x or AMD-V, and that a loop in a throw-away machine runs at a processor's speed.
#![expect(unsafe_code, reason = "KVM is driven by ioctl and shared memory; no crate in use wraps it")]

use libc::{c_int, c_ulong, c_void};
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    time::{Duration, Instant},
};

/// Turns of the measured loop. Imitated at 5.5 M instructions a second it takes 36 ms; hardware needs well under 1 ms.
const TURNS: u32 = 100_000;
/// Longest time the loop may take on a host whose KVM is used.
const LIMIT: Duration = Duration::from_millis(10);
/// Where the loop's code lies in the throw-away machine, and how much memory it has: one page.
const CODE_AT: u64 = 0x1000;
const PAGE: usize = 0x1000;

// Source: linux/kvm.h for x86-64.
const API_VERSION: c_int = 12;
const GET_API_VERSION: c_ulong = 0xAE00;
const CREATE_VM: c_ulong = 0xAE01;
const GET_VCPU_MMAP_SIZE: c_ulong = 0xAE04;
const CREATE_VCPU: c_ulong = 0xAE41;
const SET_USER_MEMORY_REGION: c_ulong = 0x4020_AE46;
const RUN: c_ulong = 0xAE80;
const SET_REGS: c_ulong = 0x4090_AE82;
const GET_SREGS: c_ulong = 0x8138_AE83;
const SET_SREGS: c_ulong = 0x4138_AE84;
const EXIT_HLT: u32 = 5;
/// Offset of `exit_reason` in `struct kvm_run`.
const EXIT_REASON: usize = 8;

/// The answer of [`usable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmVerdict {
    /// Guests may use KVM.
    Hardware,
    /// Guests must be emulated.
    Software {
        /// Why, for the log and the administrator.
        why: String,
    },
}

/// Probes this host; takes under 1 ms on hardware and up to 130 ms on an imitation. It never fails: a host that cannot
/// be probed is one without KVM.
pub fn usable() -> KvmVerdict {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    judge(has_extension(&cpuinfo), time_loop)
}

fn judge(extension: bool, time_loop: impl FnOnce() -> io::Result<Duration>) -> KvmVerdict {
    let software = |why: String| KvmVerdict::Software { why };
    if !extension {
        return software("the processor offers neither vmx nor svm".into());
    }
    match time_loop() {
        Ok(took) if took < LIMIT => KvmVerdict::Hardware,
        Ok(took) => software(format!("a loop of {TURNS} turns took {took:?} under KVM, limit {LIMIT:?}")),
        Err(error) => software(format!("a throw-away KVM machine failed: {error}")),
    }
}

fn has_extension(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
struct Region {
    slot: u32,
    flags: u32,
    guest_address: u64,
    bytes: u64,
    host_address: u64,
}

/// `struct kvm_sregs`, of which only the code segment is changed: its base at 0 and its selector at 12.
#[repr(C, align(8))]
struct Segments([u8; 0x138]);

/// Runs the loop once in a machine that is gone afterwards. KVM's descriptors are closed in reverse order of making.
fn time_loop() -> io::Result<Duration> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    if ioctl(&kvm, GET_API_VERSION, ptr::null_mut())? != API_VERSION {
        return Err(io::Error::other("unknown KVM API"));
    }
    let memory = Mapping::new(PAGE, None)?;
    memory.write(&code());
    let vm = File::from(owned(ioctl(&kvm, CREATE_VM, ptr::null_mut())?));
    let mut region =
        Region { slot: 0, flags: 0, guest_address: CODE_AT, bytes: PAGE as u64, host_address: memory.address() };
    ioctl(&vm, SET_USER_MEMORY_REGION, (&raw mut region).cast())?;
    let run_bytes = usize::try_from(ioctl(&kvm, GET_VCPU_MMAP_SIZE, ptr::null_mut())?).unwrap_or(0);
    let vcpu = File::from(owned(ioctl(&vm, CREATE_VCPU, ptr::null_mut())?));
    let run = Mapping::new(run_bytes, Some(&vcpu))?;
    let mut segments = Segments([0; 0x138]);
    ioctl(&vcpu, GET_SREGS, (&raw mut segments).cast())?;
    segments.0[0..8].fill(0);
    segments.0[12..14].fill(0);
    ioctl(&vcpu, SET_SREGS, (&raw mut segments).cast())?;
    // `struct kvm_regs`: 16 general registers, rip, rflags (bit 1 is always set).
    let mut registers = [0_u64; 18];
    registers[16] = CODE_AT;
    registers[17] = 2;
    ioctl(&vcpu, SET_REGS, (&raw mut registers).cast())?;
    let start = Instant::now();
    ioctl(&vcpu, RUN, ptr::null_mut())?;
    let took = start.elapsed();
    match run.read_u32(EXIT_REASON) {
        EXIT_HLT => Ok(took),
        other => Err(io::Error::other(format!("exit reason {other} in place of a halt"))),
    }
}

/// Real-mode code: `mov ecx, TURNS; 1: dec ecx; jnz 1b; hlt`.
fn code() -> Vec<u8> {
    [&[0x66, 0xb9][..], &TURNS.to_le_bytes(), &[0x66, 0x49, 0x75, 0xfc, 0xf4]].concat()
}

fn ioctl(file: &File, request: c_ulong, argument: *mut c_void) -> io::Result<c_int> {
    // SAFETY: the descriptor is open; `argument` is null where the request takes 0, otherwise a live structure of the
    // size that the request number holds.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: called with what KVM just made for us, which nobody else closes.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Memory shared with KVM, unmapped on drop.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Anonymous memory, or that of `file`.
    fn new(bytes: usize, file: Option<&File>) -> io::Result<Self> {
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, bytes })
    }

    fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.bytes, "the code fits in a page");
        // SAFETY: within the mapping, by the line above; no reference into it exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), bytes.len()) };
    }

    fn read_u32(&self, offset: usize) -> u32 {
        assert!(offset + size_of::<u32>() <= self.bytes, "the field lies in the mapping");
        // SAFETY: within the mapping, by the line above; KVM writes there, hence volatile, but not now.
        unsafe { self.start.as_ptr().add(offset).cast::<u32>().read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no reference exists.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod test {
    use super::{KvmVerdict, LIMIT, has_extension, judge, time_loop, usable};
    use std::{fs, io, time::Duration};

    #[test]
    fn kvm_is_used_only_with_the_extension_and_at_speed() {
        let hardware = |extension, took: io::Result<Duration>| judge(extension, || took) == KvmVerdict::Hardware;
        assert!(hardware(true, Ok(Duration::from_micros(300))));
        assert!(!hardware(false, Ok(Duration::from_micros(300))));
        assert!(!hardware(true, Ok(LIMIT)));
        assert!(!hardware(true, Err(io::Error::other("no /dev/kvm"))));
    }

    #[test]
    fn the_flag_is_a_whole_word_of_the_flags_line() {
        assert!(has_extension("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_extension("flags : svm"));
        assert!(!has_extension("flags : fpu svm_lock\nvmx flags : vnmi\n"));
        assert!(!has_extension("bugs : vmx\n") && !has_extension(""));
    }

    #[test]
    fn the_probe_leaves_no_descriptor_behind() {
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let maps = || fs::read_to_string("/proc/self/maps").unwrap().matches("kvm").count();
        let _first = (time_loop(), usable());
        let before = (open(), maps());
        for _ in 0..3 {
            let _verdict = (time_loop(), usable());
        }
        assert_eq!((open(), maps()), before);
    }
}
