//! `roost-guard status`: asks the running guard and prints what it says.

use std::io::{Read, Write, stdout};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use roost_protocol::codec;
use roost_ward::door::{Fencing, LONGEST_FRAME, Reply, Request, Status};

use crate::config::Config;

/// A guard that doesn't answer within this hangs.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn show(config: &Config) -> anyhow::Result<()> {
    let path = config.socket();
    let asked = ask(&path).with_context(|| format!("ask the guard at {}", path.display()))?;
    Ok(stdout().write_all(text(&asked).as_bytes())?)
}

fn ask(path: &std::path::Path) -> anyhow::Result<Status> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = codec::encode(&Request::Status);
    stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length))?;
    ensure!(length <= LONGEST_FRAME, "an answer of {length} bytes");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    match codec::decode(&answer)? {
        Reply::Status(status) => Ok(status),
        Reply::Refused(why) => bail!(why),
        Reply::Done | Reply::Held { .. } | Reply::Note(_) => bail!("the answer is none"),
    }
}

fn text(status: &Status) -> String {
    let fence = match &status.fencing {
        Fencing::Hardware(name) => format!("hardware watchdog ({name})"),
        Fencing::Soft(name) => format!("software watchdog only ({name}): no fence when the whole host hangs"),
        Fencing::Parent => "a parent process (for tests)".to_owned(),
        Fencing::None(why) => format!("none: {why}"),
    };
    let key: String = status.key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut out = format!("voter  {}\nkey    {key}\nfence  {fence}\n", status.me);
    for peer in &status.peers {
        let heard = peer.silent.map_or("never heard".to_owned(), |ms| format!("heard {} ms ago", ms.0));
        out.push_str(&format!("peer   {} {heard}\n", peer.id));
    }
    for ward in &status.wards {
        let owner = ward.owner.map_or("nobody".to_owned(), |owner| owner.to_string());
        let (standing, policy) = (ward.standing, ward.policy);
        out.push_str(&format!(
            "{}: {standing:?} here, {policy:?}, epoch {} of {owner}, {} guests held, votes for no other for {} ms\n",
            ward.ward, ward.epoch, ward.processes, ward.promise_left.0
        ));
    }
    out
}
