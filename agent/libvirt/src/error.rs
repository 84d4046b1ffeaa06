//! What can go wrong: libvirt's error numbers as far as the agent decides by them.

use virt_sys as sys;

/// A call that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libvirt said no.
    #[error("{tried}: {message} (libvirt {code:?}, source {domain})")]
    Libvirt {
        /// What was tried, and on which domain.
        tried: String,
        /// Why, as far as it matters here.
        code: Code,
        /// Which part of libvirt raised it (`VIR_FROM_*`).
        domain: i32,
        /// libvirt's own words, at most 4 KiB.
        message: String,
    },
    /// A text handed to libvirt holds a NUL byte, which C cannot carry.
    #[error("{tried}: the text has a NUL byte")]
    Nul {
        /// What was tried.
        tried: String,
    },
    /// An answer was longer than its limit.
    #[error("{tried}: the answer is longer than {limit_bytes} bytes")]
    Oversize {
        /// What was tried.
        tried: String,
        /// The limit that was passed, in bytes.
        limit_bytes: usize,
    },
    /// A number is outside what libvirt's call can carry.
    #[error("{tried}: the number is out of range")]
    Range {
        /// What was tried.
        tried: String,
    },
    /// [`crate::Hypervisor::on_event`] was called a second time.
    #[error("events of this connection already have a receiver")]
    AlreadyWatched,
    /// The event thread could not be started.
    #[error("start the libvirt event thread: {message}")]
    Thread {
        /// The operating system's words.
        message: String,
    },
}

impl Error {
    /// libvirt's code, when libvirt was the one that refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Libvirt { code, .. } => Some(*code),
            Self::Nul { .. }
            | Self::Oversize { .. }
            | Self::Range { .. }
            | Self::AlreadyWatched
            | Self::Thread { .. } => None,
        }
    }

    /// Whether the way to libvirt is gone, so that only a new [`crate::Hypervisor`] can help.
    ///
    /// libvirt has no one code for it: a closed socket is `Internal`, a broken one `System`, both raised by its RPC
    /// part. The daemon's own trouble with a helper can look the same; ask [`crate::Hypervisor::alive`] when it matters.
    pub fn is_connection_lost(&self) -> bool {
        let Self::Libvirt { code, domain, .. } = self else { return false };
        let of_rpc = [sys::VIR_FROM_RPC, sys::VIR_FROM_REMOTE].iter().any(|part| u32::try_from(*domain) == Ok(*part));
        match code {
            Code::NoConnect | Code::InvalidConnection | Code::Rpc => true,
            Code::Internal | Code::System => of_rpc,
            Code::NoDomain
            | Code::DomainExists
            | Code::OperationInvalid
            | Code::OperationFailed
            | Code::OperationDenied
            | Code::OperationTimeout
            | Code::OperationAborted
            | Code::Unsupported
            | Code::ConfigUnsupported
            | Code::XmlError
            | Code::InvalidArgument
            | Code::AgentUnresponsive
            | Code::Busy
            | Code::NoCheckpoint
            | Code::CheckpointInconsistent
            | Code::NoBackup
            | Code::Other(_) => false,
        }
    }
}

/// libvirt's `VIR_ERR_*`, as far as a decision hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// No such domain.
    NoDomain,
    /// A domain of that name or UUID exists already.
    DomainExists,
    /// Not in this state (starting what runs, stopping what is off).
    OperationInvalid,
    /// QEMU was asked and failed.
    OperationFailed,
    /// Not permitted on this connection.
    OperationDenied,
    /// Not done in libvirt's time, or a job holds the domain.
    OperationTimeout,
    /// Given up on request.
    OperationAborted,
    /// This driver, this QEMU or this domain (one without an agent channel) cannot do that at all.
    Unsupported,
    /// The XML asks for what this QEMU cannot give.
    ConfigUnsupported,
    /// The XML is malformed or does not fit the schema.
    XmlError,
    /// A bad argument or an unknown flag.
    InvalidArgument,
    /// The guest agent is absent, hung or out of step.
    AgentUnresponsive,
    /// Something is in use.
    Busy,
    /// No such checkpoint.
    NoCheckpoint,
    /// A checkpoint's bitmap is missing or broken.
    CheckpointInconsistent,
    /// No backup job.
    NoBackup,
    /// libvirt cannot be reached.
    NoConnect,
    /// The connection object is no longer one.
    InvalidConnection,
    /// The RPC layer failed.
    Rpc,
    /// A system call of libvirt's failed.
    System,
    /// libvirt's catch-all.
    Internal,
    /// Any other, with libvirt's number; 0 means that libvirt failed without saying why.
    Other(i32),
}

impl Code {
    pub(crate) fn from_raw(raw: i32) -> Self {
        match u32::try_from(raw).unwrap_or(0) {
            sys::VIR_ERR_NO_DOMAIN => Self::NoDomain,
            sys::VIR_ERR_DOM_EXIST => Self::DomainExists,
            sys::VIR_ERR_OPERATION_INVALID => Self::OperationInvalid,
            sys::VIR_ERR_OPERATION_FAILED => Self::OperationFailed,
            sys::VIR_ERR_OPERATION_DENIED | sys::VIR_ERR_ACCESS_DENIED => Self::OperationDenied,
            sys::VIR_ERR_OPERATION_TIMEOUT => Self::OperationTimeout,
            sys::VIR_ERR_OPERATION_ABORTED => Self::OperationAborted,
            sys::VIR_ERR_OPERATION_UNSUPPORTED | sys::VIR_ERR_NO_SUPPORT | sys::VIR_ERR_ARGUMENT_UNSUPPORTED => {
                Self::Unsupported
            }
            sys::VIR_ERR_CONFIG_UNSUPPORTED => Self::ConfigUnsupported,
            sys::VIR_ERR_XML_ERROR | sys::VIR_ERR_XML_DETAIL | sys::VIR_ERR_XML_INVALID_SCHEMA => Self::XmlError,
            sys::VIR_ERR_INVALID_ARG | sys::VIR_ERR_OVERFLOW => Self::InvalidArgument,
            sys::VIR_ERR_AGENT_UNRESPONSIVE | sys::VIR_ERR_AGENT_UNSYNCED => Self::AgentUnresponsive,
            sys::VIR_ERR_RESOURCE_BUSY => Self::Busy,
            sys::VIR_ERR_NO_DOMAIN_CHECKPOINT => Self::NoCheckpoint,
            sys::VIR_ERR_CHECKPOINT_INCONSISTENT => Self::CheckpointInconsistent,
            sys::VIR_ERR_NO_DOMAIN_BACKUP => Self::NoBackup,
            sys::VIR_ERR_NO_CONNECT => Self::NoConnect,
            sys::VIR_ERR_INVALID_CONN => Self::InvalidConnection,
            sys::VIR_ERR_RPC => Self::Rpc,
            sys::VIR_ERR_SYSTEM_ERROR => Self::System,
            sys::VIR_ERR_INTERNAL_ERROR => Self::Internal,
            _ => Self::Other(raw),
        }
    }
}

#[cfg(test)]
mod test {
    use super::{Code, Error};

    fn lost(code: i32, domain: i32) -> bool {
        let code = Code::from_raw(code);
        Error::Libvirt { tried: String::new(), code, domain, message: String::new() }.is_connection_lost()
    }

    #[test]
    fn only_a_dead_socket_counts_as_a_lost_connection() {
        assert!(lost(1, 7), "client socket is closed");
        assert!(lost(38, 7), "cannot write data: broken pipe");
        assert!(lost(5, 0) && lost(6, 20) && lost(39, 13));
        assert!(!lost(1, 10) && !lost(38, 10), "QEMU's own trouble");
        assert!(!lost(42, 7) && !lost(-3, 7) && !lost(i32::MAX, 7));
        assert!(!Error::AlreadyWatched.is_connection_lost());
    }
}
