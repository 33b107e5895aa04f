//! Virtual machines under QEMU: software emulation, pvscsi disks, vmxnet3 links, serial console in a file.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::tools::{self, repository, run, wait_for};

/// Drivers of an appliance on a distribution's kernel.
const APPLIANCE_MODULES: &str =
    "vmxnet3 vmw_pvscsi sd_mod virtio_pci virtio_blk virtio_net button evdev qemu_fw_cfg";
/// Drivers of watchdogs, the first that the kernel has is used.
const WATCHDOGS: &[&str] = &["i6300esb", "softdog"];
/// Where the image has its shell.
const RESCUE_SHELL: [&str; 2] = ["/bin/busybox=/bin/busybox", "/bin/sh=/bin/busybox"];
/// Drivers of a host that uses the portal.
const INITIATOR_MODULES: &str = "vmxnet3 sd_mod iscsi_tcp crc32c-intel";
/// Programs that it uses.
const INITIATOR_PROGRAMS: &str = "iscsid iscsiadm mke2fs e2fsck";
/// Programs of the acceptance run, on top.
const ACCEPTANCE_PROGRAMS: &str = "resize2fs fio sg_compare_and_write sg_copy_results sg_get_lba_status sg_inq sg_logs sg_luns sg_modes sg_opcodes \
    sg_persist sg_raw sg_readcap sg_requests sg_reset sg_rtpg sg_sync sg_turs sg_unmap sg_vpd sg_write_same sg_xcopy";
/// Drivers of a guest whose disk is the LUN.
const GUEST_MODULES: &str = "virtio_pci virtio_blk ext4 button evdev";

/// The first of [`Hardware::pvscsi_disks`] as an appliance names it, whatever the kernel calls it.
pub const FIRST_DISK: &str = "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0";

/// OVMF's program and variables where distributions put them.
const OVMF: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// Why this machine can't run virtual machines; `None`: it can.
fn obstacle() -> Option<String> {
    run("qemu-system-x86_64", &["--version"]).err().map(|error| format!("{error:#}"))
}

/// Whether virtual machines run here, with their kernel made; else says why `test` is skipped.
pub fn can_run(test: &str) -> bool {
    if let Some(obstacle) = obstacle() {
        println!("{test}: skipped, no QEMU: {obstacle}");
        return false;
    }
    kernel().expect("a kernel for virtual machines");
    true
}

/// The same in a network of the test's own: false outside, when the test has run inside.
pub fn can_run_in_namespace(test: &str) -> bool {
    can_run(test) && crate::namespace::enter(test)
}

/// The kernel's folder (see `ci/vm/kernel`), made on first use.
pub fn kernel() -> Result<PathBuf> {
    let dir = repository().join("target/vm/kernel");
    run(&script("kernel"), &[&dir.to_string_lossy()])?;
    Ok(dir)
}

/// The appliance: the binary under test is its first process; beside it there is the rescue shell.
pub fn appliance_initramfs(dir: &Path, kernel: &Path) -> Result<PathBuf> {
    let binary = dir.join("futago-stripped");
    run("strip", &["-o", &binary.to_string_lossy(), &tools::futago().to_string_lossy()])?;
    let mut files = vec![format!("/init={}", binary.display())];
    files.extend(RESCUE_SHELL.map(str::to_owned));
    initramfs(&dir.join("appliance.cpio"), kernel, APPLIANCE_MODULES, &files)
}

/// The appliance as its disk image has it: with the programs that look after the state partition.
pub fn system_initramfs(dir: &Path, kernel: &Path, modules: &str) -> Result<PathBuf> {
    system_initramfs_with(dir, kernel, modules, &tools::futago(), &[])
}

/// The same of another binary, and with more files, `DEST=FILE` each.
pub fn system_initramfs_with(
    dir: &Path,
    kernel: &Path,
    modules: &str,
    futago: &Path,
    more: &[String],
) -> Result<PathBuf> {
    let binary = dir.join("futago-stripped");
    run("strip", &["-o", &binary.to_string_lossy(), &futago.to_string_lossy()])?;
    let mut files = vec![format!("/init={}", binary.display())];
    files.extend(RESCUE_SHELL.map(str::to_owned));
    files.extend(["mke2fs", "e2fsck"].map(|program| format!("/sbin/{program}=/sbin/{program}")));
    files.extend_from_slice(more);
    initramfs(&dir.join("system.cpio"), kernel, &format!("{APPLIANCE_MODULES} {modules}"), &files)
}

/// An appliance whose first process can be made to hang (see `ci/vm/hang`), with the driver of a watchdog: that of
/// [`Hardware::watchdog`], or the kernel's own timer where the kernel lacks it.
pub fn hanging_initramfs(dir: &Path, kernel: &Path) -> Result<PathBuf> {
    let binary = dir.join("futago-stripped");
    run("strip", &["-o", &binary.to_string_lossy(), &tools::futago().to_string_lossy()])?;
    let files = [
        format!("/init={}", script("hang")),
        format!("/sbin/futago={}", binary.display()),
        "/sbin/strace=/usr/bin/strace".into(),
        "/bin/busybox=/bin/busybox".into(),
    ];
    let listed = std::fs::read_to_string(modules_dir(kernel)?.join("modules.dep"))?;
    let driver = WATCHDOGS.iter().find(|driver| listed.contains(&format!("/{driver}.ko")));
    let driver = driver.context("this kernel has no watchdog")?;
    println!("watchdog: {driver}");
    initramfs(&dir.join("hanging.cpio"), kernel, &format!("{APPLIANCE_MODULES} ext4 {driver}"), &files)
}

fn modules_dir(kernel: &Path) -> Result<PathBuf> {
    let versions = std::fs::read_dir(kernel.join("lib/modules"))?;
    Ok(versions.flatten().next().context("a kernel without modules")?.path())
}

/// A host that uses the portal: the kernel's initiator with the distribution's open-iscsi and e2fsprogs.
pub fn initiator_initramfs(dir: &Path, kernel: &Path) -> Result<PathBuf> {
    let files = host_files("initiator", INITIATOR_PROGRAMS)?;
    initramfs(&dir.join("initiator.cpio"), kernel, INITIATOR_MODULES, &files)
}

/// A host that tries everything on the LUN, with sg3_utils and fio.
pub fn acceptance_initramfs(dir: &Path, kernel: &Path) -> Result<PathBuf> {
    let mut files = host_files("acceptance", &format!("{INITIATOR_PROGRAMS} {ACCEPTANCE_PROGRAMS}"))?;
    files.extend(
        ["acceptance-io", "acceptance-logins"].map(|part| format!("/etc/futago/{part}={}", script(part))),
    );
    initramfs(&dir.join("acceptance.cpio"), kernel, INITIATOR_MODULES, &files)
}

/// What a guest begins with whose root file system is its disk.
pub fn guest_initramfs(dir: &Path, kernel: &Path) -> Result<PathBuf> {
    let files = [format!("/init={}", script("guest")), "/bin/busybox=/bin/busybox".into()];
    initramfs(&dir.join("guest.cpio"), kernel, GUEST_MODULES, &files)
}

/// The root file system of such a guest, `mib` MiB of ext4.
pub fn guest_root(dir: &Path, mib: u64) -> Result<PathBuf> {
    let content = dir.join("guest-root");
    for folder in ["bin", "sbin", "dev", "proc", "sys", "mnt", "data"] {
        std::fs::create_dir_all(content.join(folder))?;
    }
    std::fs::copy("/bin/busybox", content.join("bin/busybox")).context("/bin/busybox")?;
    std::fs::copy(script("guest"), content.join("sbin/init"))?;
    let disk = empty_disk(dir, "guest-root.img", mib)?;
    let (from, to) = (content.to_string_lossy(), disk.to_string_lossy());
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", &from, &to])?;
    Ok(disk)
}

fn host_files(init: &str, programs: &str) -> Result<Vec<String>> {
    let mut files = vec![
        format!("/init={}", script(init)),
        format!("/etc/futago/host={}", script("host")),
        "/bin/busybox=/bin/busybox".into(),
    ];
    for program in programs.split_whitespace() {
        let found = ["/usr/sbin", "/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
        let found = found.iter().find(|path| path.exists()).with_context(|| format!("no {program}"))?;
        files.push(format!("/sbin/{program}={}", found.display()));
    }
    Ok(files)
}

fn initramfs(out: &Path, kernel: &Path, modules: &str, files: &[String]) -> Result<PathBuf> {
    let (out_text, kernel_text) = (out.to_string_lossy(), kernel.to_string_lossy());
    let mut arguments = vec![&*out_text, &*kernel_text, modules];
    arguments.extend(files.iter().map(String::as_str));
    run(&script("initramfs"), &arguments)?;
    Ok(out.to_owned())
}

fn script(name: &str) -> String {
    repository().join("ci/vm").join(name).to_string_lossy().into_owned()
}

/// A state disk for an appliance: a small ext4 file system, found by its label, with the settings on it.
pub fn state_disk(dir: &Path, settings: &Value) -> Result<PathBuf> {
    let name = settings["name"].as_str().context("settings without a name")?;
    let content = dir.join(format!("{name}-state"));
    std::fs::create_dir_all(&content)?;
    std::fs::write(content.join("settings.json"), settings.to_string())?;
    state_disk_of(dir, name, &content)
}

/// A state disk that nothing is on yet.
pub fn new_state_disk(dir: &Path, name: &str) -> Result<PathBuf> {
    let content = dir.join(format!("{name}-state"));
    std::fs::create_dir_all(&content)?;
    state_disk_of(dir, name, &content)
}

fn state_disk_of(dir: &Path, name: &str, content: &Path) -> Result<PathBuf> {
    let disk = empty_disk(dir, &format!("{name}-state.img"), 64)?;
    let (from, to) = (content.to_string_lossy(), disk.to_string_lossy());
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "futago-state", "-d", &from, &to])?;
    Ok(disk)
}

/// An ext4 file system for an appliance's state, with nothing on it.
pub fn empty_state_disk(dir: &Path, name: &str) -> Result<PathBuf> {
    let disk = empty_disk(dir, name, 64)?;
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "futago-state", &disk.to_string_lossy()])?;
    Ok(disk)
}

/// A sparse file as a disk.
pub fn empty_disk(dir: &Path, name: &str, mib: u64) -> Result<PathBuf> {
    let disk = dir.join(name);
    std::fs::File::create(&disk)?.set_len(mib << 20)?;
    Ok(disk)
}

/// What starts a machine that boots from its system disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// The disk is on the pvscsi controller.
    Bios,
    /// OVMF, which has no driver for pvscsi: the disk is a virtio one.
    Efi,
}

/// What a virtual machine is made of.
#[derive(Clone, Debug, Default)]
pub struct Hardware {
    /// Names its files.
    pub name: String,
    /// Boots from this disk, instead of `kernel` and `initramfs`.
    pub system_disk: Option<(PathBuf, Firmware)>,
    /// Restarts when the system in it does, instead of ending.
    pub restarts: bool,
    /// It has a watchdog, which restarts it.
    pub watchdog: bool,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub memory_mib: u32,
    /// More words for the kernel.
    pub command_line: String,
    /// A virtio disk: its name does not depend on the others'.
    pub state_disk: Option<PathBuf>,
    /// Virtio disks by QEMU's own words for the image, e.g. `file=iscsi://…,format=raw`.
    pub virtio_disks: Vec<String>,
    /// What is said at deployment: the OVF environment.
    pub deployment: Option<PathBuf>,
    /// In order of their SCSI ids.
    pub pvscsi_disks: Vec<PathBuf>,
    /// A vmxnet3 link per QEMU network back end, e.g. `tap,ifname=tap0,script=no,downscript=no`.
    pub links: Vec<String>,
    /// The last byte of each link's hardware address; unique on the segment.
    pub number: u8,
}

/// A running virtual machine; killed when dropped.
#[derive(Debug)]
pub struct Machine {
    name: String,
    child: Child,
    serial: PathBuf,
    qmp: PathBuf,
}

impl Machine {
    /// Switches it on; its files are below `dir`.
    pub fn start(dir: &Path, hardware: &Hardware) -> Result<Self> {
        let serial = dir.join(format!("{}.serial", hardware.name));
        let qmp = dir.join(format!("{}.qmp", hardware.name));
        for old in [&serial, &qmp, &terminal(&serial)] {
            let _ = std::fs::remove_file(old);
        }
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-nodefaults"]);
        if !hardware.restarts {
            qemu.arg("-no-reboot");
        }
        qemu.args(["-display", "none", "-m", &hardware.memory_mib.to_string()]);
        if hardware.system_disk.is_none() {
            qemu.arg("-kernel").arg(hardware.kernel.join("vmlinuz")).arg("-initrd").arg(&hardware.initramfs);
            // An emulated timer that a busy host starves is no broken one: as under KVM, Linux is not to test it at its start.
            let command_line =
                format!("console=ttyS0 quiet panic=-1 no_timer_check {}", hardware.command_line);
            qemu.arg("-append").arg(command_line);
        }
        // A line that someone may plug a terminal into, and that is written down.
        let line = format!("socket,id=line,path={},server=on,wait=off", terminal(&serial).display());
        qemu.arg("-chardev").arg(format!("{line},logfile={}", serial.display()));
        qemu.args(["-serial", "chardev:line"]);
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
        if hardware.watchdog {
            qemu.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        if let Some(document) = &hardware.deployment {
            qemu.arg("-fw_cfg").arg(format!("name=opt/futago/ovf-environment,file={}", document.display()));
        }
        if let Some(disk) = &hardware.state_disk {
            qemu.arg("-drive").arg(format!("file={},format=raw,if=none,id=state", disk.display()));
            qemu.args(["-device", "virtio-blk-pci,drive=state"]);
        }
        for (id, disk) in hardware.virtio_disks.iter().enumerate() {
            qemu.arg("-drive").arg(format!("{disk},if=none,id=virtio{id}"));
            qemu.arg("-device").arg(format!("virtio-blk-pci,drive=virtio{id}"));
        }
        qemu.args(["-device", "pvscsi,id=scsi,addr=10"]);
        if let Some((disk, firmware)) = &hardware.system_disk {
            boot_from(&mut qemu, dir, disk, *firmware)?;
        }
        for (id, disk) in hardware.pvscsi_disks.iter().enumerate() {
            qemu.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk{id}", disk.display()));
            qemu.arg("-device").arg(format!("scsi-hd,bus=scsi.0,scsi-id={id},drive=disk{id}"));
        }
        for (index, link) in hardware.links.iter().enumerate() {
            qemu.arg("-netdev").arg(format!("{link},id=link{index}"));
            let address = format!("52:54:00:00:{index:02x}:{:02x}", hardware.number);
            // Without the option ROM the firmware does not try to boot from the network.
            qemu.arg("-device").arg(format!("vmxnet3,netdev=link{index},mac={address},romfile="));
        }
        let child = qemu.stdin(Stdio::null()).spawn().context("qemu-system-x86_64")?;
        Ok(Self { name: hardware.name.clone(), child, serial, qmp })
    }

    /// What the serial console has said.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// The serial line, as a terminal on it has it.
    pub fn serial_line(&self) -> Result<UnixStream> {
        // QEMU makes it once it has started.
        wait_for("a serial line", Duration::from_secs(30), || {
            UnixStream::connect(terminal(&self.serial)).ok()
        })
    }

    /// Waits for a console line that contains `text` and answers it; the error quotes the console.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let found = wait_for(&format!("{}: console line {text:?}", self.name), limit, || {
            let console = self.console();
            let line = console.lines().find(|line| line.contains(text)).map(|line| line.trim().to_owned());
            // A machine that is off says nothing more.
            line.map(Ok).or_else(|| match self.child.try_wait() {
                Ok(Some(status)) => Some(Err(status)),
                Ok(None) | Err(_) => None,
            })
        });
        match found {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(status)) => bail!("{} ended ({status}) without {text:?}:\n{}", self.name, self.tail()),
            Err(error) => Err(error.context(self.tail())),
        }
    }

    fn tail(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Presses the ACPI power button.
    pub fn press_power_button(&self) -> Result<()> {
        self.qmp("system_powerdown", Value::Null).map(drop)
    }

    /// Plugs the cable of a link in, or out.
    pub fn plug(&self, link: usize, connected: bool) -> Result<()> {
        self.qmp("set_link", json!({ "name": format!("link{link}"), "up": connected })).map(drop)
    }

    /// Takes the system disk out of the running machine, as a storage administrator's mistake would.
    pub fn remove_system_disk(&self) -> Result<()> {
        self.qmp("device_del", json!({ "id": "system-disk" })).map(drop)
    }

    /// Adds a disk to the running machine, with SCSI id `id`.
    pub fn add_disk(&self, id: usize, disk: &Path) -> Result<()> {
        let file = json!({ "driver": "file", "filename": disk });
        self.qmp(
            "blockdev-add",
            json!({ "driver": "raw", "node-name": format!("added{id}"), "file": file }),
        )?;
        let device = json!({
            "driver": "scsi-hd", "id": format!("disk{id}"), "bus": "scsi.0", "scsi-id": id,
            "drive": format!("added{id}"),
        });
        self.qmp("device_add", device).map(drop)
    }

    /// QEMU's word for the machine's state: `running`, or `io-error` where a disk's error has stopped it.
    pub fn run_state(&self) -> Result<String> {
        let status = self.qmp("query-status", Value::Null)?;
        Ok(status["status"].as_str().context("no status")?.to_owned())
    }

    fn qmp(&self, command: &str, arguments: Value) -> Result<Value> {
        let mut socket = UnixStream::connect(&self.qmp).context("QMP")?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answers = BufReader::new(socket.try_clone()?).lines();
        let mut result = Value::Null;
        for (command, arguments) in [("qmp_capabilities", Value::Null), (command, arguments)] {
            let mut request = json!({ "execute": command });
            if !arguments.is_null() {
                request["arguments"] = arguments;
            }
            writeln!(socket, "{request}")?;
            result = loop {
                let answer: Value = serde_json::from_str(&answers.next().context("QMP ended")??)?;
                if answer.get("error").is_some() {
                    bail!("QMP {command}: {answer}");
                }
                if let Some(result) = answer.get("return") {
                    break result.clone();
                }
            };
        }
        Ok(result)
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_off(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} is still on after {} s:\n{}", self.name, limit.as_secs(), self.tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Cuts the power: `kill -9` of QEMU.
    pub fn cut_power(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

fn terminal(serial: &Path) -> PathBuf {
    serial.with_extension("tty")
}

fn boot_from(qemu: &mut Command, dir: &Path, disk: &Path, firmware: Firmware) -> Result<()> {
    qemu.arg("-drive").arg(format!("file={},format=raw,if=none,id=system", disk.display()));
    match firmware {
        // Behind the data disks, as its device name must not matter; SeaBIOS looks at the first seven.
        Firmware::Bios => {
            qemu.args(["-device", "scsi-hd,id=system-disk,bus=scsi.0,scsi-id=6,drive=system,bootindex=0"])
        }
        Firmware::Efi => {
            let (code, variables) =
                OVMF.iter().find(|(code, _)| Path::new(code).exists()).context("no OVMF")?;
            let own = dir.join("efi-variables.fd");
            std::fs::copy(variables, &own).with_context(|| (*variables).to_owned())?;
            qemu.args(["-machine", "q35"]);
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={code}"));
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,file={}", own.display()));
            qemu.args(["-device", "virtio-blk-pci,id=system-disk,drive=system,bootindex=0"])
        }
    };
    Ok(())
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- console of {} ---\n{}", self.name, self.tail());
        }
        let _ = self.cut_power();
    }
}
