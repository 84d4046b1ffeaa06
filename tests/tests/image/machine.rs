//! A machine in QEMU that boots the host image; its power is cut when it is dropped.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::grid::{Grid, eventually, output, program};

/// Where QEMU's own network has this machine.
pub(crate) const HERE: &str = "10.0.2.2";
/// Address of a second card.
pub(crate) const SECOND: &str = "52:54:00:aa:bb:02";
/// Without it a kernel under emulation on a busy machine may find its timer broken.
pub(crate) const ALWAYS: &str = "console=ttyS0,115200 panic=-1 no_timer_check";
/// Where the boot partition begins in the stick's image.
const BOOT_PARTITION: &str = "2M";
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What starts a stick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    Uefi,
    /// That starts only what is signed; a fresh one waits for its first key.
    SecureBoot,
}

/// A machine to be started.
#[derive(Debug)]
pub(crate) struct Machine {
    words: Vec<String>,
    serial: PathBuf,
    /// What QEMU's monitor is told at power on.
    orders: &'static str,
    /// The network namespace that QEMU is in, where it is another one.
    namespace: Option<String>,
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Running {
    qemu: Child,
    serial: PathBuf,
}

/// At the serial line of one that runs.
#[derive(Debug)]
pub(crate) struct Keyboard(UnixStream);

/// The folder with the image, where these tests are wanted.
pub(crate) fn image() -> Option<PathBuf> {
    std::env::var_os("ROOST_IMAGE").map(PathBuf::from)
}

fn part(name: &str) -> Result<PathBuf> {
    let path = image().context("ROOST_IMAGE")?.join(name);
    ensure!(path.is_file(), "{} is not built: make image-test", path.display());
    Ok(path)
}

/// A copy of the image of a stick, with this roost.conf.
pub(crate) fn written(grid: &Grid, image: &str, answers: &str) -> Result<PathBuf> {
    let (stick, file) = (grid.folder.join("stick.img"), grid.folder.join("roost.conf"));
    fs::copy(part(image)?, &stick)?;
    fs::write(&file, answers)?;
    let partition = format!("{}@@{BOOT_PARTITION}", stick.display());
    output(Command::new("mcopy").args(["-o", "-i", &partition]).arg(&file).arg("::roost.conf"))?;
    Ok(stick)
}

/// The ISO image with this roost.conf in it, put there as README.md says.
pub(crate) fn burnt(grid: &Grid, answers: &str) -> Result<PathBuf> {
    let (disc, file) = (grid.folder.join("mine.iso"), grid.folder.join("roost.conf"));
    fs::write(&file, answers)?;
    fs::copy(part("roost.iso")?, &disc)?;
    let mut change = Command::new("xorriso");
    change.arg("-dev").arg(&disc).args(["-boot_image", "any", "keep", "-update"]).arg(&file).arg("/roost.conf");
    output(&mut change)?;
    Ok(disc)
}

fn word(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Machine {
    fn new(grid: &Grid) -> Self {
        let serial = grid.folder.join(format!("serial-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let fixed = "-accel tcg,thread=multi -cpu max -m 1536 -smp 2 -display none -no-reboot";
        let mut words: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
        words.extend(["-serial".into(), format!("file:{}", serial.display())]);
        Self { words, serial, orders: "", namespace: None }
    }

    fn and(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    fn card(self, more: &str) -> Self {
        self.and(&["-netdev", &format!("user,id=n{more}"), "-device", "virtio-net-pci,netdev=n,bootindex=1"])
    }

    /// Kernel and initrd handed over as they are.
    pub(crate) fn kernel(grid: &Grid, parameters: &str) -> Self {
        let folder = image().unwrap_or_default();
        let (kernel, initrd) = (word(&folder.join("vmlinuz")), word(&folder.join("initrd.img")));
        let line = format!("{ALWAYS} {parameters}");
        Self::new(grid).card("").and(&["-kernel", &kernel, "-initrd", &initrd, "-append", &line])
    }

    /// With its SNMP port found at this port here.
    pub(crate) fn monitored(mut self, port: u16) -> Self {
        for word in self.words.iter_mut().filter(|word| *word == "user,id=n") {
            word.push_str(&format!(",hostfwd=udp:127.0.0.1:{port}-:161"));
        }
        self
    }

    /// From the stick, with this roost.conf.
    pub(crate) fn stick(grid: &Grid, firmware: Firmware, answers: &str) -> Result<Self> {
        let name = if firmware == Firmware::SecureBoot { "usb-secure-boot.img" } else { "usb.img" };
        Self::stick_with(&written(grid, name, answers)?, grid, firmware)
    }

    /// From this stick, as it is.
    pub(crate) fn stick_with(stick: &Path, grid: &Grid, firmware: Firmware) -> Result<Self> {
        let drive = format!("if=none,id=s,format=raw,file={}", stick.display());
        let machine = Self::new(grid).and(&["-drive", &drive, "-device", "qemu-xhci", "-device"]);
        machine.and(&["usb-storage,drive=s,bootindex=0"]).unbooted_card().firmware(grid, firmware)
    }

    /// From the stick's image, on a disk of this machine with more room.
    pub(crate) fn installed(disk: &Path, grid: &Grid, firmware: Firmware) -> Result<Self> {
        Self::new(grid).disk(disk).unbooted_card().firmware(grid, firmware)
    }

    /// From a disc, as virtual media are.
    pub(crate) fn disc(disc: &Path, grid: &Grid, firmware: Firmware) -> Result<Self> {
        Self::new(grid).and(&["-cdrom", &word(disc), "-boot", "d"]).unbooted_card().firmware(grid, firmware)
    }

    fn unbooted_card(self) -> Self {
        self.and(&["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="])
    }

    fn firmware(self, grid: &Grid, firmware: Firmware) -> Result<Self> {
        let (code, machine) = match firmware {
            Firmware::Bios => return Ok(self),
            Firmware::Uefi => ("OVMF_CODE_4M.fd", "q35"),
            Firmware::SecureBoot => ("OVMF_CODE_4M.secboot.fd", "q35,smm=on"),
        };
        let ovmf = image().context("ROOST_IMAGE")?.join("../base/usr/share/OVMF");
        // What firmware was told stays over a reboot, and its keys are among that.
        let own = grid.folder.join("vars.fd");
        if !own.exists() {
            fs::copy(ovmf.join("OVMF_VARS_4M.fd"), &own)?;
        }
        let code = format!("if=pflash,format=raw,readonly=on,file={}", ovmf.join(code).display());
        let vars = format!("if=pflash,format=raw,file={}", own.display());
        let secure = ["-global", "driver=cfi.pflash01,property=secure,value=on"];
        let flash = self.and(&["-machine", machine, "-drive", &code, "-drive", &vars]);
        Ok(if firmware == Firmware::SecureBoot { flash.and(&secure) } else { flash })
    }

    /// With so many processors. An emulated one takes seconds to be measured, so the kernel is told.
    pub(crate) fn processors(mut self, count: u32) -> Self {
        let told = [("-cpu", "max,+invtsc".into()), ("-m", "3072".into()), ("-smp", format!("{count},sockets=1"))];
        for (word, value) in told {
            self.put(word, |old| *old = value);
        }
        self.put("-append", |line| line.push_str(" lpj=10000000 tsc=reliable"));
        self
    }

    /// Changes what follows this word.
    fn put(&mut self, word: &str, change: impl FnOnce(&mut String)) {
        if let Some(at) = self.words.iter().position(|seen| seen == word) {
            change(&mut self.words[at + 1]);
        }
    }

    /// By the network card's own iPXE: a script by TFTP, which names kernel and initrd by HTTP.
    pub(crate) fn network(grid: &Grid, parameters: &str) -> Result<Self> {
        let port = serve(image().context("ROOST_IMAGE")?)?;
        let tftp = grid.folder.join("tftp");
        fs::create_dir_all(&tftp)?;
        let at = format!("http://{HERE}:{port}");
        let script = format!(
            "#!ipxe\nkernel {at}/vmlinuz initrd=initrd.img {ALWAYS} {parameters}\ninitrd {at}/initrd.img\nboot\n"
        );
        fs::write(tftp.join("roost.ipxe"), script)?;
        Ok(Self::new(grid).card(&format!(",tftp={},bootfile=roost.ipxe", tftp.display())))
    }

    /// By the network card's own iPXE, on a port of the lab's switch.
    pub(crate) fn on_switch(grid: &Grid, port: &str) -> Self {
        let tap = format!("tap,id=n,ifname={port},script=no,downscript=no");
        let machine = Self::new(grid).and(&["-netdev", &tap, "-device", "virtio-net-pci,netdev=n,bootindex=1"]);
        Self { namespace: Some(grid.lab.switch()), ..machine }
    }

    /// With one byte of the root image changed.
    pub(crate) fn tampered(mut self, grid: &Grid) -> Result<Self> {
        let changed = grid.folder.join("initrd.changed");
        fs::copy(part("initrd.img")?, &changed)?;
        spoil(&changed)?;
        self.put("-initrd", |path| *path = word(&changed));
        Ok(self)
    }

    /// That starts again where it says so, instead of being off.
    pub(crate) fn restarting(mut self) -> Self {
        self.words.retain(|word| word != "-no-reboot");
        self
    }

    /// With a second card, and the cable in that one.
    pub(crate) fn plugged_elsewhere(self) -> Self {
        let second = format!("virtio-net-pci,netdev=m,romfile=,mac={SECOND}");
        let second = self.and(&["-netdev", "user,id=m", "-device", &second]);
        Self { orders: "set_link n off\n", ..second }
    }

    /// With a watchdog that resets it, of a kind that servers had.
    pub(crate) fn watched(self) -> Self {
        self.restarting().and(&["-device", "i6300esb", "-action", "watchdog=reset"])
    }

    /// With a keyboard at its serial line.
    pub(crate) fn typed(mut self) -> Self {
        let (log, socket) = (self.serial.display(), self.serial.with_extension("keyboard"));
        let line = format!("socket,id=k,path={},server=on,wait=off,logfile={log}", socket.display());
        self.put("-serial", |serial| *serial = "chardev:k".into());
        self.and(&["-chardev", &line])
    }

    /// With one more archive behind the initrd: paths and texts.
    pub(crate) fn brought(mut self, grid: &Grid, files: &[(&str, &str)]) -> Result<Self> {
        let (tree, both) = (grid.folder.join("more"), grid.folder.join("initrd.more"));
        for (path, text) in files {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(path, text)?;
        }
        let archive = "find . | cpio -o -H newc --quiet | cat \"$0\" - > \"$1\"";
        output(Command::new("sh").args(["-c", archive]).arg(part("initrd.img")?).arg(&both).current_dir(tree))?;
        self.put("-initrd", |path| *path = word(&both));
        Ok(self)
    }

    /// With one more disk.
    pub(crate) fn disk(self, path: &Path) -> Self {
        self.and(&["-drive", &format!("if=virtio,format=raw,file={}", path.display())])
    }

    /// Power on.
    pub(crate) fn start(self) -> Result<Running> {
        const QEMU: &str = "qemu-system-x86_64";
        let mut command = match &self.namespace {
            None => Command::new(QEMU),
            Some(namespace) => {
                let mut inside = Command::new("ip");
                inside.args(["netns", "exec", namespace, QEMU]);
                inside
            }
        };
        command.args(&self.words).args(["-monitor", "stdio"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut qemu = command.spawn().with_context(|| format!("{command:?}"))?;
        // Without its end QEMU goes on as it does without a monitor.
        qemu.stdin.take().context("its monitor")?.write_all(self.orders.as_bytes())?;
        Ok(Running { qemu, serial: self.serial })
    }
}

impl Keyboard {
    /// A line, and Enter.
    pub(crate) fn types(&mut self, line: &str) -> Result<()> {
        Ok(self.0.write_all(format!("{line}\r").as_bytes())?)
    }
}

impl Running {
    /// All that came over its serial line.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// Somebody sits down at it.
    pub(crate) fn keyboard(&self) -> Result<Keyboard> {
        let line = UnixStream::connect(self.serial.with_extension("keyboard"))?;
        let mut screen = line.try_clone()?;
        // What nobody reads would stop the machine; its text is in the log.
        std::thread::spawn(move || std::io::copy(&mut screen, &mut std::io::sink()));
        Ok(Keyboard(line))
    }

    /// Waits until its console shows this. Rows of the page may be broken, so white space does not count.
    pub(crate) fn says(&self, text: &str, limit: Duration) -> Result<()> {
        self.waits(text, limit, |times| times > 0)
    }

    /// Waits until its console showed this so often, and not more often.
    pub(crate) fn says_so_often(&self, text: &str, times: usize, limit: Duration) -> Result<()> {
        self.waits(text, limit, |found| found >= times)?;
        let found = times_in(&self.said(), text);
        ensure!(found == times, "the console shows {text:?} {found} times, not {times}");
        Ok(())
    }

    fn waits(&self, text: &str, limit: Duration, enough: impl Fn(usize) -> bool) -> Result<()> {
        eventually(&format!("the console shows {text:?}"), limit, || {
            let said = self.said();
            let end = &said[said.floor_char_boundary(said.len().saturating_sub(4_000))..];
            ensure!(enough(times_in(&said, text)), "{end}");
            Ok(())
        })
    }
}

fn times_in(said: &str, text: &str) -> usize {
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    plain(said).matches(&plain(text)).count()
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- serial line\n{}", self.said());
        }
        let _gone = self.qemu.kill();
        let _reaped = self.qemu.wait();
    }
}

/// A folder with the image, signed as one of so many seconds later; its root changed, where it is to be broken.
pub(crate) fn offer(folder: &Path, later: u64, broken: bool) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in ["vmlinuz", "initrd.img"] {
        fs::copy(part(name)?, folder.join(name))?;
    }
    if broken {
        spoil(&folder.join("initrd.img"))?;
    }
    let own = fs::read_to_string(part("manifest")?)?;
    let date = own.lines().find_map(|line| line.strip_prefix("date ")).context("the image's date")?;
    let date: u64 = date.parse()?;
    let key = image().context("ROOST_IMAGE")?.join("../key");
    let mut sign = Command::new(program("roost-agent")?);
    sign.args(["image", "sign"]).arg(folder).arg("--key").arg(key).args(["--date", &(date + later).to_string()]);
    output(&mut sign).map(drop)
}

/// Changes one byte in the middle.
fn spoil(path: &Path) -> Result<()> {
    let mut file = fs::File::options().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(middle))?;
    Ok(file.write_all(&[byte[0] ^ 1])?)
}

/// Serves the files of a folder by HTTP to whoever asks, as long as the test runs; gives the port.
pub(crate) fn serve(folder: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 1_024];
            let read = stream.read(&mut asked).unwrap_or(0);
            let line = String::from_utf8_lossy(&asked[..read]).into_owned();
            let name = line.split(' ').nth(1).unwrap_or_default().trim_matches('/').to_owned();
            let known = ["manifest", "vmlinuz", "initrd.img"].contains(&name.as_str());
            if let Some(bytes) = known.then(|| fs::read(folder.join(name)).ok()).flatten() {
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
                let _sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
            }
        }
    });
    Ok(port)
}
