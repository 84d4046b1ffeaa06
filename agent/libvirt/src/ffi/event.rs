//! libvirt's callbacks. They find their receiver by a number in a table, never by a pointer, so that a callback that is
//! still on its way when the receiver goes finds nothing. They only push.

use super::{Connection, borrowed, check, last_error, name_of, uuid_of};
use crate::{
    AgentReason, BlockJobStatus, CloseReason, DomainEvent, Endpoint, Error, Event, EventKind, GraphicsPhase, IoAction,
    Lifecycle, WatchdogAction,
};
use libc::{c_char, c_int, c_ulonglong, c_void};
use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, PoisonError, RwLock},
};
use virt_sys as sys;

type Receiver = Arc<dyn Fn(Event) + Send + Sync>;

/// All receivers, by token; tokens are never used twice.
static RECEIVERS: RwLock<(usize, BTreeMap<usize, Receiver>)> = RwLock::new((0, BTreeMap::new()));

/// Registers libvirt's own event loop for the whole process.
pub(crate) fn register_event_loop() -> Result<(), Error> {
    // SAFETY: no argument; `Events::start` calls it once, before any connection.
    let answer = unsafe { sys::virEventRegisterDefaultImpl() };
    check(answer, || "register the event loop".into()).map(drop)
}

/// One turn of the loop: waits for a file descriptor or a timer, and runs what hangs on it.
pub(crate) fn turn_event_loop() -> Result<(), Error> {
    // SAFETY: no argument; the loop is registered and turned by one thread alone.
    let answer = unsafe { sys::virEventRunDefaultImpl() };
    check(answer, || "run the event loop".into()).map(drop)
}

/// All registrations of one receiver on one connection. They end with [`Watch::end`], before the connection closes.
pub(crate) struct Watch {
    token: usize,
    ids: Vec<c_int>,
    closing: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("token", &self.token).field("ids", &self.ids).finish()
    }
}

impl Watch {
    /// Registers for every kind of event in `callbacks`, and for the end of the connection.
    pub(crate) fn start(connection: &Connection, receiver: Receiver) -> Result<Self, Error> {
        let token = {
            let mut receivers = RECEIVERS.write().unwrap_or_else(PoisonError::into_inner);
            receivers.0 += 1;
            let token = receivers.0;
            receivers.1.insert(token, receiver);
            token
        };
        let mut watch = Self { token, ids: Vec::new(), closing: false };
        match watch.register(connection) {
            Ok(()) => Ok(watch),
            Err(error) => {
                watch.end(connection);
                Err(error)
            }
        }
    }

    fn register(&mut self, connection: &Connection) -> Result<(), Error> {
        let opaque = ptr::without_provenance_mut::<c_void>(self.token);
        for (kind, callback) in callbacks() {
            // SAFETY: the callback fits its kind (see `callbacks`), uses `opaque` as a number and needs no free function.
            let id = unsafe {
                let any = ptr::null_mut();
                sys::virConnectDomainEventRegisterAny(connection.raw(), any, kind.cast_signed(), callback, opaque, None)
            };
            check(id, || format!("register for event {kind}"))?;
            self.ids.push(id);
        }
        // SAFETY: as above.
        let answer = unsafe { sys::virConnectRegisterCloseCallback(connection.raw(), Some(on_close), opaque, None) };
        check(answer, || "register for the end of the connection".into())?;
        self.closing = true;
        Ok(())
    }

    /// Takes the receiver away, then the registrations; on a dead connection libvirt refuses, which changes nothing.
    pub(crate) fn end(&mut self, connection: &Connection) {
        let receiver = RECEIVERS.write().unwrap_or_else(PoisonError::into_inner).1.remove(&self.token);
        for id in self.ids.drain(..) {
            // SAFETY: an id of this live connection.
            let answer = unsafe { sys::virConnectDomainEventDeregisterAny(connection.raw(), id) };
            if answer < 0 {
                drop(last_error(|| "deregister an event".into()));
            }
        }
        if std::mem::take(&mut self.closing) {
            // SAFETY: a live connection; libvirt compares the function and refuses a wrong one.
            let answer = unsafe { sys::virConnectUnregisterCloseCallback(connection.raw(), Some(on_close)) };
            if answer < 0 {
                drop(last_error(|| "deregister the end of the connection".into()));
            }
        }
        drop(receiver);
    }
}

type Generic = sys::virConnectDomainEventGenericCallback;

/// Each kind with its callback, made generic as libvirt's API wants it. The first type is libvirt's own for that kind,
/// so a callback that does not fit does not compile.
fn callbacks() -> [(u32, Generic); 8] {
    macro_rules! generic {
        ($own:ty, $callback:expr) => {
            // SAFETY: both are an optional function pointer; libvirt calls it with the arguments of its kind.
            unsafe { std::mem::transmute::<$own, Generic>(Some($callback)) }
        };
    }
    [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, generic!(sys::virConnectDomainEventCallback, on_lifecycle)),
        (sys::VIR_DOMAIN_EVENT_ID_REBOOT, Some(on_reboot)),
        (
            sys::VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
            generic!(sys::virConnectDomainEventBalloonChangeCallback, on_balloon),
        ),
        (
            sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
            generic!(sys::virConnectDomainEventAgentLifecycleCallback, on_agent),
        ),
        (
            sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
            generic!(sys::virConnectDomainEventIOErrorReasonCallback, on_io_error),
        ),
        (sys::VIR_DOMAIN_EVENT_ID_WATCHDOG, generic!(sys::virConnectDomainEventWatchdogCallback, on_watchdog)),
        (sys::VIR_DOMAIN_EVENT_ID_GRAPHICS, generic!(sys::virConnectDomainEventGraphicsCallback, on_graphics)),
        (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, generic!(sys::virConnectDomainEventBlockJobCallback, on_block_job)),
    ]
}

/// Hands one event to the receiver of `opaque`. A panic of the receiver must not unwind into C; it ends here.
fn push(opaque: *mut c_void, event: impl FnOnce() -> Event) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let receiver = RECEIVERS.read().unwrap_or_else(PoisonError::into_inner).1.get(&opaque.addr()).cloned();
        if let Some(receiver) = receiver {
            receiver(event());
        }
    }));
    if outcome.is_err() {
        tracing::error!("the receiver of libvirt events panicked");
    }
}

fn push_domain(domain: sys::virDomainPtr, opaque: *mut c_void, kind: impl FnOnce() -> EventKind) {
    if domain.is_null() {
        return;
    }
    push(opaque, || Event::Domain(DomainEvent { uuid: uuid_of(domain), name: name_of(domain), kind: kind() }));
}

type Conn = sys::virConnectPtr;
type Dom = sys::virDomainPtr;

extern "C" fn on_lifecycle(_: Conn, domain: Dom, event: c_int, detail: c_int, opaque: *mut c_void) -> c_int {
    push_domain(domain, opaque, || EventKind::Lifecycle { event: Lifecycle::from_raw(event, detail), detail });
    0
}

extern "C" fn on_reboot(_: Conn, domain: Dom, opaque: *mut c_void) {
    push_domain(domain, opaque, || EventKind::Reboot);
}

extern "C" fn on_balloon(_: Conn, domain: Dom, actual_kib: c_ulonglong, opaque: *mut c_void) {
    push_domain(domain, opaque, || EventKind::Balloon { actual_kib });
}

extern "C" fn on_agent(_: Conn, domain: Dom, state: c_int, reason: c_int, opaque: *mut c_void) {
    let connected = state.cast_unsigned() == sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED;
    push_domain(domain, opaque, || EventKind::Agent { connected, reason: AgentReason::from_raw(reason) });
}

extern "C" fn on_io_error(
    _: Conn,
    domain: Dom,
    path: *const c_char,
    device: *const c_char,
    action: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    push_domain(domain, opaque, || {
        // SAFETY: libvirt passes null or C strings that live through the callback.
        let (path, device, reason) = unsafe { (borrowed(path), borrowed(device), borrowed(reason)) };
        EventKind::IoError { path, device, action: IoAction::from_raw(action), reason }
    });
}

extern "C" fn on_watchdog(_: Conn, domain: Dom, action: c_int, opaque: *mut c_void) {
    push_domain(domain, opaque, || EventKind::Watchdog { action: WatchdogAction::from_raw(action) });
}

extern "C" fn on_graphics(
    _: Conn,
    domain: Dom,
    phase: c_int,
    local: *const sys::virDomainEventGraphicsAddress,
    remote: *const sys::virDomainEventGraphicsAddress,
    auth: *const c_char,
    _: *const sys::virDomainEventGraphicsSubject,
    opaque: *mut c_void,
) {
    push_domain(domain, opaque, || EventKind::Graphics {
        phase: GraphicsPhase::from_raw(phase),
        local: endpoint(local),
        remote: endpoint(remote),
        // SAFETY: null or a C string that lives through the callback.
        auth: unsafe { borrowed(auth) },
    });
}

fn endpoint(raw: *const sys::virDomainEventGraphicsAddress) -> Endpoint {
    // SAFETY: null or an address that lives through the callback, its texts null or C strings.
    unsafe {
        raw.as_ref().map_or_else(Endpoint::default, |address| Endpoint {
            node: borrowed(address.node),
            service: borrowed(address.service),
        })
    }
}

extern "C" fn on_block_job(_: Conn, domain: Dom, disk: *const c_char, job: c_int, status: c_int, opaque: *mut c_void) {
    push_domain(domain, opaque, || {
        // SAFETY: null or a C string that lives through the callback.
        let disk = unsafe { borrowed(disk) };
        EventKind::BlockJob { disk, job, status: BlockJobStatus::from_raw(status) }
    });
}

extern "C" fn on_close(_: Conn, reason: c_int, opaque: *mut c_void) {
    push(opaque, || Event::ConnectionLost { reason: CloseReason::from_raw(reason) });
}
