//! The one domain that is nobody's guest: a restore point that is booted to see whether it starts. Lists and numbers leave
//! it out, and it ends with the connection that started it.

use crate::{Code, DomainInfo, Error, ForceOff, Hypervisor, Uuid};

/// Its UUID; a version (8) that nobody draws at random.
pub const TRIAL: Uuid = *b"roost-\x80t\x80ial-one";

impl Hypervisor {
    /// Starts the trial by this definition, which must have [`TRIAL`] as its UUID. libvirt ends it when this connection
    /// is closed, also by our death.
    ///
    /// # Errors
    /// As [`Hypervisor::create_transient`]; [`Code::OperationFailed`] while one runs.
    pub fn start_trial(&self, xml: &str) -> Result<(), Error> {
        self.connection.create_bound(xml).map(drop)
    }

    /// The trial's state.
    ///
    /// # Errors
    /// [`Code::NoDomain`] when it is over.
    pub fn trial(&self) -> Result<DomainInfo, Error> {
        self.domain(&TRIAL)
    }

    /// Ends the trial if there is one, also one of an earlier life.
    ///
    /// # Errors
    /// See [`Hypervisor`].
    pub fn end_trial(&self) -> Result<(), Error> {
        match self.force_off(&TRIAL, ForceOff::Kill) {
            Err(error) if error.code() == Some(Code::NoDomain) => Ok(()),
            other => other,
        }
    }
}
