//! The only calls into libvirt's C library. Everything that leaves here is safe, owned and bounded.
#![expect(unsafe_code, reason = "libvirt is a C library; each call is wrapped here and nowhere else")]

mod backup;
mod event;
mod memory;

pub(crate) use backup::DiskAct;
pub(crate) use event::{Watch, register_event_loop, turn_event_loop};

use crate::{Code, Error, Uuid, hypervisor::GuestInterface, stats::Value, uuid_text};
use libc::{c_char, c_int, c_void};
use memory::{CArray, CText, MOST_TEXT, text};
use std::{
    ffi::CString,
    ptr::{self, NonNull},
};
use virt_sys as sys;

/// Most typed parameters that are read of one domain: 256 disks and 256 cards with 16 each, and as much again.
const MOST_PARAMS: usize = 16 * 1024;

/// Makes a C string; a NUL byte inside is an error.
pub(crate) fn c_text(text: &str, tried: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul { tried: tried.into() })
}

/// Stops libvirt from printing errors on stderr; they come back as [`Error`].
pub(crate) fn silence() {
    unsafe extern "C" fn ignore(_user: *mut c_void, _error: sys::virErrorPtr) {}
    // SAFETY: the handler touches nothing, so it may be called from any thread for ever.
    unsafe { sys::virSetErrorFunc(ptr::null_mut(), Some(ignore)) }
}

/// The error of the call that just failed on this thread (libvirt keeps one per thread), and forgets it. `tried` comes
/// after it, since even asking for a domain's name wipes the error.
fn last_error(tried: impl FnOnce() -> String) -> Error {
    // SAFETY: the pointer is to this thread's own error, valid until the next libvirt call on this thread.
    let (code, domain, message) = unsafe {
        match sys::virGetLastError().as_ref() {
            Some(error) => (error.code, error.domain, text(error.message, MOST_TEXT)),
            None => (0, 0, "libvirt gave no reason".into()),
        }
    };
    // SAFETY: no argument; frees this thread's error, of which nothing is kept.
    unsafe { sys::virResetLastError() };
    Error::Libvirt { tried: tried(), code: Code::from_raw(code), domain, message }
}

/// Turns libvirt's "-1 is an error" into a result.
fn check(answer: c_int, tried: impl FnOnce() -> String) -> Result<u32, Error> {
    u32::try_from(answer).map_err(|_| last_error(tried))
}

/// One reference to a connection, given back on drop.
#[derive(Debug)]
pub(crate) struct Connection(NonNull<sys::virConnect>);

// SAFETY: libvirt's connections and their reference counts are thread-safe (libvirt's "threads" internals page).
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: this is our one reference, and it is not used after this.
        unsafe { sys::virConnectClose(self.0.as_ptr()) };
    }
}

impl Connection {
    pub(crate) fn open(uri: &str) -> Result<Self, Error> {
        let tried = || format!("open {uri}");
        let c_uri = c_text(uri, &tried())?;
        // SAFETY: `c_uri` is a C string that outlives the call.
        let raw = unsafe { sys::virConnectOpen(c_uri.as_ptr()) };
        NonNull::new(raw).map(Self).ok_or_else(|| last_error(tried))
    }

    fn raw(&self) -> sys::virConnectPtr {
        self.0.as_ptr()
    }

    /// Asks for a sign of life each `interval_s` seconds; the connection is closed after `count` without an answer.
    pub(crate) fn keep_alive(&self, interval_s: i32, count: u32) -> Result<(), Error> {
        // SAFETY: the connection is live while `self` is; so for every `self.raw()` below.
        let answer = unsafe { sys::virConnectSetKeepAlive(self.raw(), interval_s, count) };
        check(answer, || "set keep-alive".into()).map(drop)
    }

    pub(crate) fn is_alive(&self) -> bool {
        // SAFETY: see `keep_alive`.
        let answer = unsafe { sys::virConnectIsAlive(self.raw()) };
        check(answer, || "ask for life".into()).is_ok_and(|alive| alive == 1)
    }

    /// libvirt's and the hypervisor's version, each as major * 1,000,000 + minor * 1,000 + micro.
    pub(crate) fn versions(&self) -> Result<(u64, u64), Error> {
        let (mut library, mut hypervisor) = (0, 0);
        // SAFETY: see `keep_alive`; both calls write one number each into our variables.
        let (first, second) = unsafe {
            (
                sys::virConnectGetLibVersion(self.raw(), &mut library),
                sys::virConnectGetVersion(self.raw(), &mut hypervisor),
            )
        };
        check(first.min(second), || "get versions".into())?;
        Ok((library, hypervisor))
    }

    pub(crate) fn list(&self) -> Result<Vec<Domain>, Error> {
        let mut array = ptr::null_mut();
        // SAFETY: see `keep_alive`; libvirt writes an array that is ours to free, with one reference per entry.
        let count = unsafe { sys::virConnectListAllDomains(self.raw(), &mut array, 0) };
        let count = check(count, || "list domains".into())?;
        // SAFETY: the array was allocated by libvirt with malloc and holds `count` entries.
        let array = unsafe { CArray::new(array, count) };
        Ok(array.entries().iter().filter_map(|raw| NonNull::new(*raw)).map(Domain).collect())
    }

    pub(crate) fn lookup(&self, uuid: &Uuid) -> Result<Domain, Error> {
        // SAFETY: see `keep_alive`; libvirt reads 16 bytes.
        let raw = unsafe { sys::virDomainLookupByUUID(self.raw(), uuid.as_ptr()) };
        NonNull::new(raw).map(Domain).ok_or_else(|| last_error(|| format!("find domain {}", uuid_text(uuid))))
    }

    pub(crate) fn define(&self, xml: &str) -> Result<Domain, Error> {
        let c_xml = c_text(xml, "define a domain")?;
        // SAFETY: see `keep_alive`; `c_xml` outlives the call.
        let raw = unsafe { sys::virDomainDefineXMLFlags(self.raw(), c_xml.as_ptr(), sys::VIR_DOMAIN_DEFINE_VALIDATE) };
        NonNull::new(raw).map(Domain).ok_or_else(|| last_error(|| "define a domain".into()))
    }

    pub(crate) fn create(&self, xml: &str) -> Result<Domain, Error> {
        self.create_with(xml, 0)
    }

    /// The same; libvirt destroys it when this connection is closed.
    pub(crate) fn create_bound(&self, xml: &str) -> Result<Domain, Error> {
        self.create_with(xml, sys::VIR_DOMAIN_START_AUTODESTROY)
    }

    fn create_with(&self, xml: &str, flags: u32) -> Result<Domain, Error> {
        let flags = flags | sys::VIR_DOMAIN_START_VALIDATE;
        let c_xml = c_text(xml, "start a transient domain")?;
        // SAFETY: see `keep_alive`; `c_xml` outlives the call.
        let raw = unsafe { sys::virDomainCreateXML(self.raw(), c_xml.as_ptr(), flags) };
        NonNull::new(raw).map(Domain).ok_or_else(|| last_error(|| "start a transient domain".into()))
    }

    /// Calls `each` with the UUID, the name and the parameters of every domain.
    pub(crate) fn stats(
        &self,
        groups: u32,
        flags: u32,
        mut each: impl FnMut(Uuid, String, Vec<(String, Value)>),
    ) -> Result<(), Error> {
        struct Records(*mut sys::virDomainStatsRecordPtr);
        impl Drop for Records {
            fn drop(&mut self) {
                // SAFETY: the list is libvirt's own, freed once; a null list is allowed.
                unsafe { sys::virDomainStatsRecordListFree(self.0) };
            }
        }
        let mut records = Records(ptr::null_mut());
        // SAFETY: see `keep_alive`; libvirt writes a list that `records` frees.
        let count = unsafe { sys::virConnectGetAllDomainStats(self.raw(), groups, &mut records.0, flags) };
        let count = check(count, || "get statistics of all domains".into())?;
        if records.0.is_null() {
            return Ok(());
        }
        for at in 0..count as usize {
            // SAFETY: the list holds `count` pointers to records, which live until `records` is dropped.
            let Some(record) = (unsafe { (*records.0.add(at)).as_ref() }) else { break };
            let Some(domain) = NonNull::new(record.dom) else { continue };
            // SAFETY: the domain and its parameters belong to the record.
            let (uuid, name) = (uuid_of(domain.as_ptr()), name_of(domain.as_ptr()));
            each(uuid, name, params_of(record));
        }
        Ok(())
    }
}

fn params_of(record: &sys::virDomainStatsRecord) -> Vec<(String, Value)> {
    let count = usize::try_from(record.nparams).unwrap_or(0).min(MOST_PARAMS);
    if record.params.is_null() {
        return Vec::new();
    }
    // SAFETY: libvirt filled `nparams` entries, which live as long as the record.
    let params = unsafe { std::slice::from_raw_parts(record.params, count) };
    params.iter().map(|param| (field_of(param), value_of(param))).collect()
}

fn field_of(param: &sys::virTypedParameter) -> String {
    let bytes: Vec<u8> = param.field.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn value_of(param: &sys::virTypedParameter) -> Value {
    // SAFETY: libvirt wrote the member of the union that `type_` names.
    unsafe {
        match u32::try_from(param.type_).unwrap_or(0) {
            sys::VIR_TYPED_PARAM_INT => Value::Int(param.value.i.into()),
            sys::VIR_TYPED_PARAM_UINT => Value::Uint(param.value.ui.into()),
            sys::VIR_TYPED_PARAM_LLONG => Value::Int(param.value.l),
            sys::VIR_TYPED_PARAM_ULLONG => Value::Uint(param.value.ul),
            sys::VIR_TYPED_PARAM_STRING => Value::Text(text(param.value.s, MOST_TEXT)),
            _ => Value::Other,
        }
    }
}

/// The UUID of a live domain; kept in the object, so nothing is asked of the daemon.
fn uuid_of(domain: sys::virDomainPtr) -> Uuid {
    let mut uuid = [0; 16];
    // SAFETY: callers pass a live domain; libvirt writes 16 bytes. A failure leaves zeros.
    unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) };
    uuid
}

/// The name of a live domain, likewise.
fn name_of(domain: sys::virDomainPtr) -> String {
    // SAFETY: callers pass a live domain; the text belongs to it and is copied at once.
    unsafe { text(sys::virDomainGetName(domain), MOST_TEXT) }
}

/// A call that takes nothing but the domain, or the domain and flags.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Start,
    Shutdown,
    ForceOff,
    Pause,
    Resume,
    Reset,
    Reboot,
    Undefine,
}

/// One reference to a domain, given back on drop.
#[derive(Debug)]
pub(crate) struct Domain(NonNull<sys::virDomain>);

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: this is our one reference, and it is not used after this.
        unsafe { sys::virDomainFree(self.raw()) };
    }
}

impl Domain {
    fn raw(&self) -> sys::virDomainPtr {
        self.0.as_ptr()
    }

    fn on(&self, verb: &str) -> String {
        format!("{verb} {} ({})", self.name(), uuid_text(&self.uuid()))
    }

    pub(crate) fn uuid(&self) -> Uuid {
        uuid_of(self.raw())
    }

    pub(crate) fn name(&self) -> String {
        name_of(self.raw())
    }

    /// libvirt's number of a running domain; all ones when it is off.
    pub(crate) fn id(&self) -> Option<u32> {
        // SAFETY: the domain is live while `self` is; so for every `self.raw()` below.
        let id = unsafe { sys::virDomainGetID(self.raw()) };
        (id != u32::MAX).then_some(id)
    }

    /// State and reason, libvirt's numbers.
    pub(crate) fn state(&self) -> Result<(i32, i32), Error> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: see `id`; two numbers are written.
        let answer = unsafe { sys::virDomainGetState(self.raw(), &mut state, &mut reason, 0) };
        check(answer, || self.on("get the state of"))?;
        Ok((state, reason))
    }

    pub(crate) fn info(&self) -> Result<sys::virDomainInfo, Error> {
        let mut info = sys::virDomainInfo { state: 0, maxMem: 0, memory: 0, nrVirtCpu: 0, cpuTime: 0 };
        // SAFETY: see `id`; one structure is written.
        let answer = unsafe { sys::virDomainGetInfo(self.raw(), &mut info) };
        check(answer, || self.on("get the size of"))?;
        Ok(info)
    }

    pub(crate) fn is_persistent(&self) -> Result<bool, Error> {
        // SAFETY: see `id`.
        let answer = unsafe { sys::virDomainIsPersistent(self.raw()) };
        check(answer, || self.on("ask for the definition of")).map(|yes| yes == 1)
    }

    pub(crate) fn autostart(&self) -> Result<bool, Error> {
        let mut yes = 0;
        // SAFETY: see `id`; one number is written.
        let answer = unsafe { sys::virDomainGetAutostart(self.raw(), &mut yes) };
        check(answer, || self.on("get autostart of"))?;
        Ok(yes == 1)
    }

    pub(crate) fn set_autostart(&self, yes: bool) -> Result<(), Error> {
        // SAFETY: see `id`.
        let answer = unsafe { sys::virDomainSetAutostart(self.raw(), yes.into()) };
        check(answer, || self.on("set autostart of")).map(drop)
    }

    pub(crate) fn xml(&self, flags: u32) -> Result<String, Error> {
        // SAFETY: see `id`; the text is ours to free.
        let xml = unsafe { CText::new(sys::virDomainGetXMLDesc(self.raw(), flags)) };
        xml.ok_or_else(|| last_error(|| self.on("get the XML of")))?
            .bounded(memory::MOST_XML, || self.on("get the XML of"))
    }

    pub(crate) fn act(&self, act: Act, flags: u32) -> Result<(), Error> {
        let raw = self.raw();
        // SAFETY: see `id`; nothing but the domain is passed.
        let (answer, verb) = unsafe {
            match act {
                Act::Start => (sys::virDomainCreateWithFlags(raw, flags), "start"),
                Act::Shutdown => (sys::virDomainShutdownFlags(raw, flags), "shut down"),
                Act::ForceOff => (sys::virDomainDestroyFlags(raw, flags), "force off"),
                Act::Pause => (sys::virDomainSuspend(raw), "pause"),
                Act::Resume => (sys::virDomainResume(raw), "resume"),
                Act::Reset => (sys::virDomainReset(raw, flags), "reset"),
                Act::Reboot => (sys::virDomainReboot(raw, flags), "reboot"),
                Act::Undefine => (sys::virDomainUndefineFlags(raw, flags), "undefine"),
            }
        };
        check(answer, || self.on(verb)).map(drop)
    }

    pub(crate) fn set_memory(&self, kib: u64) -> Result<(), Error> {
        // SAFETY: see `id`.
        let answer = unsafe { sys::virDomainSetMemoryFlags(self.raw(), kib, sys::VIR_DOMAIN_MEM_LIVE) };
        check(answer, || self.on("set the balloon of")).map(drop)
    }

    pub(crate) fn set_stats_period(&self, seconds: i32) -> Result<(), Error> {
        // SAFETY: see `id`.
        let answer = unsafe { sys::virDomainSetMemoryStatsPeriod(self.raw(), seconds, sys::VIR_DOMAIN_MEM_LIVE) };
        check(answer, || self.on("set the statistics period of")).map(drop)
    }

    pub(crate) fn agent(&self, command: &str, timeout_s: i32, limit_bytes: usize) -> Result<String, Error> {
        let tried = || self.on("ask the guest agent of");
        let command = c_text(command, "ask the guest agent")?;
        // SAFETY: see `id`; `command` outlives the call and the answer is ours to free.
        let answer = unsafe { CText::new(sys::virDomainQemuAgentCommand(self.raw(), command.as_ptr(), timeout_s, 0)) };
        answer.ok_or_else(|| last_error(tried))?.bounded(limit_bytes, tried)
    }

    pub(crate) fn interfaces(&self) -> Result<Vec<GuestInterface>, Error> {
        let mut array = ptr::null_mut();
        let source = sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT;
        // SAFETY: see `id`; libvirt writes an array that is ours to free, entry by entry.
        let count = unsafe { sys::virDomainInterfaceAddresses(self.raw(), &mut array, source, 0) };
        let count = check(count, || self.on("ask for addresses of"))?;
        // SAFETY: the array was allocated by libvirt with malloc and holds `count` entries.
        let array = unsafe { CArray::new(array, count) };
        Ok(array.entries().iter().filter_map(|raw| memory::take_interface(*raw)).collect())
    }
}

/// A text of libvirt's that is not ours, for the callbacks.
///
/// # Safety
/// `raw` is null or a C string.
unsafe fn borrowed(raw: *const c_char) -> String {
    // SAFETY: passed on.
    unsafe { text(raw, MOST_TEXT) }
}
