//! How much memory the kernel saves by merging equal pages.

use std::fs;

use crate::detail::Ksm;

/// What `/sys/kernel/mm/ksm` says; `None` on a kernel without it.
pub(super) fn read() -> Option<Ksm> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/kernel/mm/ksm/{name}")).ok()?.trim().parse().ok()
    };
    let signed = |name: &str| -> Option<i64> {
        fs::read_to_string(format!("/sys/kernel/mm/ksm/{name}")).ok()?.trim().parse().ok()
    };
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let page = u64::try_from(page).ok()?;
    Some(Ksm {
        shared: number("pages_shared")?.saturating_mul(page),
        saved: number("pages_sharing")?.saturating_mul(page),
        run: u32::try_from(number("run")?).ok()?,
        full_scans: number("full_scans")?,
        profit: signed("general_profit"),
    })
}
