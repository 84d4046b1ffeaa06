//! Memory that libvirt allocated and gave to us: read within bounds, freed once.

use crate::{Error, hypervisor::GuestInterface};
use libc::{c_char, c_void};
use std::{net::IpAddr, ptr::NonNull};
use virt_sys as sys;

/// Most bytes of a name, a path or a message.
pub(super) const MOST_TEXT: usize = 4096;
/// Most bytes of a domain's XML; libvirt's RPC carries no string beyond 4 MiB.
pub(super) const MOST_XML: usize = 4 * 1024 * 1024;
/// Most addresses read of one interface of a guest, which may lie.
const MOST_ADDRESSES: usize = 64;
/// Most entries of an array; no host holds that many domains or interfaces.
const MOST_ENTRIES: usize = 65_536;

/// Copies at most `limit` bytes of a C string; null is empty, bytes that are not UTF-8 are replaced.
///
/// # Safety
/// `raw` is null or a C string.
pub(super) unsafe fn text(raw: *const c_char, limit: usize) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: not null; `strnlen` reads up to the NUL or `limit`, and the slice is what it read.
    let bytes = unsafe { std::slice::from_raw_parts(raw.cast::<u8>(), libc::strnlen(raw, limit)) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// A C string that is ours.
pub(super) struct CText(NonNull<c_char>);

impl CText {
    /// # Safety
    /// `raw` is null or a C string from malloc that nobody else frees.
    pub(super) unsafe fn new(raw: *mut c_char) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    pub(super) fn bounded(self, limit_bytes: usize, tried: impl FnOnce() -> String) -> Result<String, Error> {
        // SAFETY: a C string, by `new`.
        let (length, text) = unsafe {
            let raw = self.0.as_ptr();
            (libc::strnlen(raw, limit_bytes + 1), text(raw, limit_bytes))
        };
        if length > limit_bytes { Err(Error::Oversize { tried: tried(), limit_bytes }) } else { Ok(text) }
    }
}

impl Drop for CText {
    fn drop(&mut self) {
        // SAFETY: ours alone, by `new`.
        unsafe { libc::free(self.0.as_ptr().cast()) };
    }
}

/// An array of pointers that is ours; what they point to is not its business.
pub(super) struct CArray<T> {
    start: *mut *mut T,
    count: usize,
}

impl<T> CArray<T> {
    /// # Safety
    /// `start` is null or an array of `count` entries from malloc that nobody else frees.
    pub(super) unsafe fn new(start: *mut *mut T, count: u32) -> Self {
        Self { start, count: if start.is_null() { 0 } else { count as usize } }
    }

    pub(super) fn entries(&self) -> &[*mut T] {
        if self.count == 0 || self.count > MOST_ENTRIES {
            return &[];
        }
        // SAFETY: `count` entries, by `new`, and not null as `count` is not 0.
        unsafe { std::slice::from_raw_parts(self.start, self.count) }
    }
}

impl<T> Drop for CArray<T> {
    fn drop(&mut self) {
        // SAFETY: ours alone, by `new`; null is allowed.
        unsafe { libc::free(self.start.cast::<c_void>()) };
    }
}

/// Reads and frees one interface. An address that does not read as one is left out.
pub(super) fn take_interface(raw: sys::virDomainInterfacePtr) -> Option<GuestInterface> {
    // SAFETY: an entry of virDomainInterfaceAddresses, live until it is freed below.
    let entry = unsafe { raw.as_ref() }?;
    let count = if entry.addrs.is_null() { 0 } else { (entry.naddrs as usize).min(MOST_ADDRESSES) };
    // SAFETY: libvirt filled `naddrs` entries and these texts.
    let interface = unsafe {
        GuestInterface {
            name: text(entry.name, MOST_TEXT),
            mac: text(entry.hwaddr, MOST_TEXT),
            addresses: (0..count)
                .filter_map(|at| text((*entry.addrs.add(at)).addr, MOST_TEXT).parse::<IpAddr>().ok())
                .collect(),
        }
    };
    // SAFETY: ours to free, once; nothing of it is kept.
    unsafe { sys::virDomainInterfaceFree(raw) };
    Some(interface)
}

#[cfg(test)]
mod test {
    use super::{CText, text};
    use crate::Error;
    use std::{ffi::CString, ptr};

    fn owned(bytes: &[u8]) -> CText {
        let bytes = CString::new(bytes).unwrap();
        // SAFETY: strdup copies to malloc memory.
        unsafe { CText::new(libc::strdup(bytes.as_ptr())).unwrap() }
    }

    #[test]
    fn texts_are_cut_and_mended() {
        // SAFETY: null and literals.
        unsafe {
            assert_eq!(text(ptr::null(), 9), "");
            assert_eq!(text(c"abcdef".as_ptr(), 3), "abc");
            assert_eq!(text(c"a\xffb".as_ptr(), 9), "a\u{fffd}b");
        }
    }

    #[test]
    fn an_answer_over_its_limit_is_an_error() {
        assert_eq!(owned(b"12345").bounded(5, String::new).unwrap(), "12345");
        let limit_bytes = 4;
        assert_eq!(
            owned(b"12345").bounded(limit_bytes, || "ask".into()).unwrap_err(),
            Error::Oversize { tried: "ask".into(), limit_bytes }
        );
    }
}
