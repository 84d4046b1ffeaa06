//! Network boot with the script and the settings that os-image/README.md has, by dnsmasq and iPXE.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use roost_tests::grid::{Grid, QUIC, output};

use crate::machine::{ALWAYS, Machine, image, serve};
use crate::{BOOT, is_up, story};

const README: &str = include_str!("../../../os-image/README.md");
/// The server of the README, and its network.
const SERVER: &str = "10.0.0.1";
const NET: &str = "10.0.0.";
const TOKEN: &str = "roost1-...";
const PORT: &str = "tap0";

/// Ends with the test.
#[derive(Debug)]
struct Dnsmasq(Child);

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The indented lines that follow each other and begin with this one.
fn block(first: &str) -> Result<String> {
    let lines = README.lines().map(|line| line.strip_prefix("    "));
    let block: Vec<&str> = lines.skip_while(|line| *line != Some(first)).map_while(|line| line).collect();
    ensure!(!block.is_empty(), "os-image/README.md has no block that begins with {first:?}");
    Ok(block.join("\n") + "\n")
}

/// Runs `ip` in the switch's namespace.
fn on_switch(grid: &Grid, words: &[&str]) -> Result<()> {
    output(Command::new("ip").args(["-n", &grid.lab.switch()]).args(words)).map(drop)
}

#[test]
fn image_joins_by_network_boot_with_the_readme_s_script_and_settings_of_dnsmasq() {
    story(|grid| {
        let address = grid.lab.address(0);
        let net = address.strip_suffix("254").context("the machine's address in the lab")?;
        let server = format!("{net}201");
        let tftp = grid.folder.join("tftp");
        fs::create_dir_all(&tftp)?;
        let images = serve(image().context("ROOST_IMAGE")?)?;
        let script = block("#!ipxe")?
            .replace(&format!("http://{SERVER}/"), &format!("http://{address}:{images}/"))
            .replace("console=tty0", ALWAYS);
        fs::write(tftp.join("roost.ipxe"), &script)?;
        let settings = block("dhcp-range=10.0.0.50,10.0.0.99")?
            .replace(&format!("224,\"{SERVER}\""), &format!("224,\"{address}:{QUIC}\""))
            .replace(TOKEN, &grid.token("rack3-7")?)
            .replace(NET, net)
            .replace("/srv/tftp", &tftp.to_string_lossy());
        let file = grid.folder.join("dnsmasq.conf");
        fs::write(&file, &settings)?;

        on_switch(grid, &["tuntap", "add", PORT, "mode", "tap"])?;
        on_switch(grid, &["link", "set", PORT, "master", "vbr0", "up"])?;
        on_switch(grid, &["addr", "add", &format!("{server}/24"), "dev", "vbr0"])?;
        let mut dnsmasq = Command::new("ip");
        let leases = grid.folder.join("leases");
        let of = |option: &str, path: &Path| format!("--{option}={}", path.display());
        dnsmasq.args(["netns", "exec", &grid.lab.switch(), "dnsmasq", "--no-daemon", "--port=0", "--user=root"]);
        dnsmasq.args([of("conf-file", &file), of("dhcp-leasefile", &leases)]);
        let _dnsmasq = Dnsmasq(dnsmasq.stdin(Stdio::null()).spawn().context("run dnsmasq")?);
        let machine = Machine::on_switch(grid, PORT).start()?;
        is_up(grid, "rack3-7")?;
        let leased = fs::read_to_string(&leases)?;
        let seen = grid.api.get("/hosts/rack3-7")?;
        let own = seen["addresses"][0].as_str().context("its address")?;
        ensure!(leased.contains(&format!(" {own} ")), "{own} is not among {leased}");
        machine.says(own, BOOT)
    });
}
