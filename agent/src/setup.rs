//! `roost-agent snmp setup`: tells the distribution's snmpd about this agent.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use roost_snmp::mib::arc::ROOST_MIB;
use roost_snmp::setup::{Receiver, Setup, User, clash, drop_in};

use crate::config::{Config, SnmpSetup};

/// snmpd's own socket; it needs not be named.
const USUAL_SOCKET: &str = "/var/agentx/master";
/// Bytes of a password that is made here.
const PASSWORD: usize = 16;

/// Writes the drop-in, and says what is left to do.
pub(crate) fn snmp(config: &Config, wanted: &SnmpSetup) -> anyhow::Result<()> {
    if config.snmp_socket.as_os_str().is_empty() {
        bail!("SNMP is switched off in the settings: snmp_socket is empty");
    }
    if wanted.v3_user.is_none() && wanted.community.is_none() {
        bail!("nobody could ask: give --v3-user NAME, or --community TEXT, or both");
    }
    let (auth, made_auth) = password("ROOST_SNMP_AUTH")?;
    let (privacy, made_privacy) = password("ROOST_SNMP_PRIV")?;
    let user = wanted.v3_user.as_deref().map(|name| User { name, auth: &auth, privacy: &privacy });
    let community = wanted.community.as_deref().unwrap_or("public");
    let traps = wanted.trap.iter().map(|address| Receiver::Trap { address, community });
    let informs = wanted.inform.iter().filter_map(|address| Some(Receiver::Inform { address, user: user? }));
    let receivers: Vec<Receiver<'_>> = traps.chain(informs).collect();
    let text = drop_in(&Setup {
        socket: Some(config.snmp_socket.as_path()).filter(|socket| *socket != Path::new(USUAL_SOCKET)),
        agent_group: wanted.agent_group.as_deref(),
        listen: &wanted.listen,
        community: wanted.community.as_deref(),
        user,
        receivers: &receivers,
    })?;
    if let Some(folder) = &wanted.mibs {
        let path = folder.join("ROOST-MIB.txt");
        fs::write(&path, ROOST_MIB).with_context(|| format!("write {}", path.display()))?;
    }
    if wanted.output == Path::new("-") {
        crate::say(text.trim_end());
        return Ok(());
    }
    may_listen(&wanted.output, &wanted.listen)?;
    write(&wanted.output, &text)?;
    crate::say(&format!(
        "{} is written; it counts once snmpd was restarted: systemctl restart snmpd",
        wanted.output.display()
    ));
    for (what, password, made) in [("authentication", &auth, made_auth), ("privacy", &privacy, made_privacy)] {
        if made && wanted.v3_user.is_some() {
            crate::say(&format!("{what} password: {password}"));
        }
    }
    Ok(())
}

/// snmpd does not start with two addresses that meet, and then nobody watches this host.
fn may_listen(drop_in: &Path, listen: &[String]) -> anyhow::Result<()> {
    let Some(main) = drop_in.parent().and_then(Path::parent).map(|folder| folder.join("snmpd.conf")) else {
        return Ok(());
    };
    // Without a main file snmpd listens nowhere else.
    let text = fs::read_to_string(&main).unwrap_or_default();
    if let Some((new, old)) = clash(&text, listen) {
        bail!(
            "--listen {new}: {} has snmpd listen on {old} already, and it would not start with both; give an address of \
             this host, such as udp:192.0.2.7:161, or take {old} out of that file's agentaddress",
            main.display()
        );
    }
    Ok(())
}

/// The password in this variable, or one that is made; true when it was made.
fn password(variable: &str) -> anyhow::Result<(String, bool)> {
    if let Ok(given) = std::env::var(variable) {
        return Ok((given, false));
    }
    let mut bytes = [0; PASSWORD];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bail!("the system gives no random numbers for a password");
    }
    Ok((HEXLOWER.encode(&bytes), true))
}

/// Written beside and moved there, so that snmpd never reads half of it; for its reader only, who is that of the main file.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let Some(folder) = path.parent() else { bail!("{} is no file", path.display()) };
    if !folder.is_dir() {
        bail!("there is no folder {}: is snmpd installed? (apt install snmpd)", folder.display());
    }
    let beside = path.with_extension("new");
    let tried = || format!("write {}", path.display());
    // One that was left behind may belong to somebody else.
    if beside.exists() {
        fs::remove_file(&beside).with_context(tried)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).with_context(tried)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(tried)?;
    if let Some(main) = folder.parent().and_then(|folder| fs::metadata(folder.join("snmpd.conf")).ok()) {
        std::os::unix::fs::fchown(&file, Some(main.uid()), Some(main.gid())).with_context(tried)?;
        file.set_permissions(fs::Permissions::from_mode(main.mode() & 0o640)).with_context(tried)?;
    }
    fs::rename(&beside, path).with_context(tried)
}
