//! What goes wrong, and how often.

use super::world::{Happening, World};

/// Which kinds of fault a run has.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Mean time between faults, ms; zero: none.
    pub every: u64,
    /// The aggregator's data directory may be deleted.
    pub lose_data: bool,
}

impl Faults {
    /// None at all.
    pub const NONE: Self = Self { every: 0, lose_data: false };
    /// Every kind.
    pub const ALL: Self = Self { every: 4_000, lose_data: true };
    /// Every kind but the loss of the aggregator's data, with which operations are lost rightly.
    pub const KEEP_DATA: Self = Self { every: 4_000, lose_data: false };
}

impl World {
    /// One fault of a random kind on a random host; most heal by themselves after a while.
    pub(crate) fn fault(&mut self) {
        let host = self.random.index(self.hosts.len());
        let heal_in = 500 + self.random.below(25_000);
        let kinds = if self.setting.faults.lose_data { 11 } else { 10 };
        let kind = self.random.below(kinds);
        self.note(format!("fault {kind} on host {host}, heals in {heal_in}"));
        match kind {
            0 => {
                self.kill_agent(host);
                self.after(heal_in, Happening::StartAgent { host });
            }
            1 => {
                self.hosts[host].cut = true;
                self.break_link(host, heal_in);
                self.after(heal_in, Happening::HealLink { host });
            }
            2 => self.break_link(host, 100),
            3 => {
                self.kill_aggregator();
                self.after(heal_in, Happening::StartAggregator);
            }
            4 => {
                self.hosts[host].libvirt_up = false;
                self.tell_hypervisor_down(host);
                self.after(heal_in, Happening::LibvirtUp { host });
            }
            5 => {
                self.hosts[host].disk_full = true;
                self.tell_room(host);
                self.after(heal_in, Happening::DiskFree { host });
            }
            6 => self.crash_a_guest(host),
            7 => self.reboot_host(host),
            8 => self.shut_down_a_guest_from_inside(host),
            9 => {
                self.hosts[host].wall_ahead = self.random.below(3) * 63_072_000_000;
                self.hosts[host].clock_moved = self.now;
            }
            _ => {
                self.kill_aggregator();
                self.aggregator.lose_data();
                self.lost_data = true;
                self.after(heal_in.min(5_000), Happening::StartAggregator);
            }
        }
    }
}
