//! Pages of guests of different trust groups are kept apart: a guest that is started on a host of another group than its
//! own runs with memory that the kernel leaves alone. The mark says so, for another host may merge it again.

use roost_libvirt::{Error, Hypervisor, XmlForm};
use roost_protocol::GuestId;
use roost_protocol::memory::{MemoryPolicy, MemoryWish};
use roost_protocol::operation::{Failure, FailureCode};

use super::domain::hypervisor_failure;
use super::failure;
use super::import::{self, Element};
use super::xml::MARKER;

/// The element by which QEMU is told to have none of its memory merged, and what it lies in.
const ALONE: &str = "nosharepages";
const BACKING: &str = "memoryBacking";
/// On the mark: the host, not the guest's owner, put it there.
const APART: &str = "apart";

/// Before a guest of ours is started: its definition is as this host's policy has it. One that runs stays as it is, and
/// its definition tells how. Nobody is kept from starting: where it can't be set apart it runs mergeable, and the agent
/// ends merging for as long as it does.
pub(super) fn keep(hypervisor: &Hypervisor, guest: GuestId, policy: &MemoryPolicy) {
    match set(hypervisor, guest, policy) {
        Ok(false) => {}
        Ok(true) => tracing::info!(%guest, "its pages are merged as its trust group and the host's have it"),
        Err(why) => {
            tracing::warn!(%guest, why = why.text, "it is not set apart from guests of other trust groups");
        }
    }
}

/// True where the definition was changed.
fn set(hypervisor: &Hypervisor, guest: GuestId, policy: &MemoryPolicy) -> Result<bool, Failure> {
    let failed = |error: Error| hypervisor_failure(&error);
    if hypervisor.domain(&guest.bytes()).map_err(failed)?.state.is_active() {
        return Ok(false);
    }
    let form = XmlForm { inactive: true, secure: true, ..XmlForm::default() };
    let xml = hypervisor.xml(&guest.bytes(), form).map_err(failed)?;
    let Some(changed) = changed(&xml, policy)? else { return Ok(false) };
    hypervisor.define(&changed).map_err(failed)?;
    Ok(true)
}

/// The definition as it has to be; `None` when it is, or is not ours.
fn changed(xml: &str, policy: &MemoryPolicy) -> Result<Option<String>, Failure> {
    if !xml.contains(MARKER) {
        return Ok(None);
    }
    let invalid = |text: String| failure(FailureCode::Invalid, text);
    let mut root = import::tree(xml).map_err(|error| invalid(error.to_string()))?;
    let alone = root.child(BACKING).and_then(|backing| backing.child(ALONE)).is_some();
    let Some(mark) = mark(&mut root) else { return Ok(None) };
    let apart = mark.attribute(APART) == Some("yes");
    let wish = MemoryWish {
        share: !alone || apart,
        trust: mark.attribute("trust").map(str::to_owned),
        ..MemoryWish::default()
    };
    let wanted = wish.share && !policy.merges(&wish);
    if wanted == apart && (alone || !wanted) {
        return Ok(None);
    }
    mark.attributes.retain(|(name, _)| name != APART);
    if wanted {
        mark.set(APART, "yes");
    }
    set_alone(&mut root, wanted);
    let mut out = String::with_capacity(xml.len() + 128);
    import::write(&mut out, &root, "").ok_or_else(|| invalid("the definition can't be written".into()))?;
    Ok(Some(out))
}

fn mark(root: &mut Element) -> Option<&mut Element> {
    let metadata = root.children.iter_mut().filter(|child| child.name == "metadata");
    let ours = |child: &&mut Element| {
        child.name.ends_with(":guest") && child.attributes.iter().any(|(_, value)| value == MARKER)
    };
    metadata.flat_map(|metadata| &mut metadata.children).find(ours)
}

/// Says whether the kernel leaves this guest's memory alone; what else is said of its memory stays.
pub(super) fn set_alone(root: &mut Element, alone: bool) {
    if let Some(backing) = root.children.iter_mut().find(|child| child.name == BACKING) {
        backing.children.retain(|child| child.name != ALONE);
    } else if alone {
        // Where libvirt itself writes it: elsewhere its check by libxml2 may stumble, though any order is allowed.
        let memory = |child: &Element| matches!(child.name.as_str(), "memory" | "maxMemory" | "currentMemory");
        let behind = root.children.iter().rposition(memory).map_or(0, |last| last + 1);
        root.children.insert(behind, Element { name: BACKING.into(), ..Element::default() });
    }
    let backing = root.children.iter_mut().find(|child| child.name == BACKING);
    if let Some(backing) = backing.filter(|_| alone) {
        backing.children.push(Element { name: ALONE.into(), ..Element::default() });
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn host(trust: &str) -> MemoryPolicy {
        MemoryPolicy { trust: (!trust.is_empty()).then(|| trust.to_owned()), ..MemoryPolicy::default() }
    }

    fn guest(mark: &str, backing: &str) -> String {
        format!(
            "<domain type='qemu'><name>a &amp;&#10;b</name><metadata><app:x xmlns:app='urn:x'>t</app:x><roost:guest \
             xmlns:roost='{MARKER}'{mark}/></metadata>{backing}<vcpu>1</vcpu></domain>"
        )
    }

    const HUGE: &str = "<memoryBacking><locked/></memoryBacking>";

    #[test]
    fn a_guest_is_kept_apart_on_a_host_of_another_group_and_merged_again_on_one_of_its_own() {
        let changed = |xml: &str, trust: &str| super::changed(xml, &host(trust)).unwrap();
        for (mark, own, other) in [("", "", "red"), (" trust='red'", "red", ""), (" trust='red'", "red", "blue")] {
            for backing in ["", HUGE] {
                let whole = guest(mark, backing);
                assert_eq!(changed(&whole, own), None, "{whole}");
                let apart = changed(&whole, other).unwrap();
                assert!(apart.contains("<nosharepages></nosharepages></memoryBacking>"), "{apart}");
                assert!(apart.contains(" apart='yes'") && apart.contains("a &amp;&#10;b"), "{apart}");
                assert_eq!(apart.contains("locked"), !backing.is_empty(), "{apart}");
                assert_eq!(changed(&apart, other), None, "{apart}");
                // Somebody took it out by hand.
                let half = apart.replace("<nosharepages></nosharepages>", "");
                assert!(changed(&half, other).unwrap().contains("nosharepages"), "{half}");
                assert!(!changed(&half, own).unwrap().contains("apart"), "{half}");
                let again = changed(&apart, own).unwrap();
                assert!(!again.contains("nosharepages") && !again.contains("apart"), "{again}");
                assert_eq!(again.contains("locked"), !backing.is_empty(), "{again}");
            }
        }
    }

    #[test]
    fn who_opted_out_stays_out_and_who_is_not_ours_is_left_alone() {
        let alone = "<memoryBacking><nosharepages/></memoryBacking>";
        for trust in ["", "red"] {
            assert_eq!(changed(&guest("", alone), &host(trust)), Ok(None));
            assert_eq!(changed("<domain><name>a</name></domain>", &host(trust)), Ok(None));
            let other = "<domain><metadata><x:guest xmlns:x='urn:other'/></metadata></domain>";
            assert_eq!(changed(other, &host(trust)), Ok(None));
        }
        assert_eq!(changed("<?odd?><domain", &host("red")), Ok(None), "nor even read");
        assert!(changed(&guest("", "<"), &host("")).is_err());
    }
}
