//! What really executed, and when: knows nothing of leases, votes or wards.

/// One stretch in which a guest executed on a host; times in ms of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub host: usize,
    pub from: u64,
    /// None while it goes on.
    pub to: Option<u64>,
}

/// The recorder.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub stretches: Vec<Stretch>,
    /// Hosts that execute now.
    running: Vec<usize>,
    /// First moments at which two executed.
    pub doubles: Vec<u64>,
    /// When it last ran nowhere, and since then.
    pub(crate) silent_since: Option<u64>,
    /// How long it ran nowhere, each time.
    pub outages: Vec<u64>,
    /// Times that another host ran it than before.
    pub moves: u64,
    last: Option<usize>,
}

impl Truth {
    pub(crate) fn begins(&mut self, host: usize, at: u64) {
        if self.running.contains(&host) {
            return;
        }
        self.running.push(host);
        self.stretches.push(Stretch { host, from: at, to: None });
        if self.running.len() > 1 {
            self.doubles.push(at);
        }
        if let Some(since) = self.silent_since.take() {
            self.outages.push(at - since);
        }
        self.moves += u64::from(self.last.is_some_and(|last| last != host));
        self.last = Some(host);
    }

    pub(crate) fn ends(&mut self, host: usize, at: u64) {
        let Some(place) = self.running.iter().position(|running| *running == host) else { return };
        self.running.remove(place);
        let open = self.stretches.iter_mut().rev().find(|stretch| stretch.host == host && stretch.to.is_none());
        if let Some(stretch) = open {
            stretch.to = Some(at);
        }
        if self.running.is_empty() {
            self.silent_since = Some(at);
        }
    }

    /// Where it executes now.
    pub fn running(&self) -> &[usize] {
        &self.running
    }
}
