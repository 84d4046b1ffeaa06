//! Ctrl-C as an answer to wait for: what goes on is told before the command ends. The second ends it at once.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::failure::{Exit, Failure};

/// Between two looks at the grid.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// From when it is made, this process is not ended by Ctrl-C.
pub(super) struct Interrupt {
    signals: Receiver<()>,
    came: Cell<bool>,
}

impl Interrupt {
    /// For this thread and those it starts from now on.
    pub(super) fn listen() -> Result<Self, Failure> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        let failed = |why: nix::Error| Failure::new(Exit::Failed, "listen for Ctrl-C", why.to_string(), "report this");
        signals.thread_block().map_err(failed)?;
        let (sender, came) = channel();
        thread::spawn(move || {
            let _first = signals.wait();
            let _gone = sender.send(());
            let _second = signals.wait();
            std::process::exit(i32::from(Exit::Interrupted.code()));
        });
        Ok(Self { signals: came, came: Cell::new(false) })
    }

    /// Whether it came before the next look is due.
    pub(super) fn came(&self) -> bool {
        self.within(LOOK_EVERY)
    }

    /// Whether it came before now.
    pub(super) fn came_already(&self) -> bool {
        self.within(Duration::ZERO)
    }

    fn within(&self, wait: Duration) -> bool {
        if !self.came.get() {
            self.came.set(self.signals.recv_timeout(wait) != Err(RecvTimeoutError::Timeout));
        }
        self.came.get()
    }
}
