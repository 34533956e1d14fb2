//! The environment abstraction layer: once per process.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use crate::error::check;
use crate::port::PortNumber;
use crate::{DpdkError, sys};

/// Which real devices the EAL may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// No PCI device is looked at: virtual devices only.
    #[default]
    NoPci,
    /// These PCI addresses (`0000:03:00.0`) and no others. Devices bound to a kernel driver stay with it.
    Pci(Vec<String>),
}

/// Where buffers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages, taken as needed.
    #[default]
    HugePages,
    /// Ordinary pages, this many megabytes. Virtual devices only: hardware cannot be given them without an IOMMU.
    Ordinary {
        /// Megabytes, all reserved at the start.
        megabytes: u32,
    },
}

/// Arguments of the EAL.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Keeps several processes on one machine apart.
    pub file_prefix: String,
    /// Real devices.
    pub devices: Devices,
    /// Virtual devices (`net_tap0,iface=t0`); more can be attached later.
    pub vdevs: Vec<String>,
    /// Memory.
    pub memory: Memory,
    /// CPU of the EAL's own thread, which sleeps; the lcores that poll are placed by whoever starts them.
    /// `None`: the first one that the process may run on.
    pub cpu: Option<usize>,
    /// Least severe message to print, from 1 (emergency) to 8 (debug).
    pub log_level: u8,
    /// Anything else, as on the command line of a DPDK application.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            file_prefix: "marchproxy".to_owned(),
            devices: Devices::default(),
            vdevs: Vec::new(),
            memory: Memory::default(),
            cpu: None,
            log_level: 4,
            extra: Vec::new(),
        }
    }
}

impl EalConfig {
    fn arguments(&self) -> Result<Vec<CString>, DpdkError> {
        let cpu = self.cpu.unwrap_or_else(first_allowed_cpu);
        let mut arguments = vec!["marchproxy".to_owned(), "-l".to_owned(), cpu.to_string()];
        arguments.extend([
            "--no-telemetry".to_owned(),
            format!("--log-level={}", self.log_level),
        ]);
        arguments.push(format!("--file-prefix={}", self.file_prefix));
        match self.memory {
            Memory::HugePages => arguments.push("--in-memory".to_owned()),
            // Ordinary memory is never shared anyhow, and the EAL refuses the two options together.
            Memory::Ordinary { megabytes } => {
                let ordinary = ["--no-huge", "--no-shconf", "-m"];
                arguments.extend(ordinary.map(str::to_owned));
                arguments.push(megabytes.to_string());
            }
        }
        match &self.devices {
            Devices::NoPci => arguments.push("--no-pci".to_owned()),
            Devices::Pci(addresses) if addresses.is_empty() => {
                arguments.push("--no-pci".to_owned());
            }
            Devices::Pci(addresses) => arguments.extend(
                addresses
                    .iter()
                    .flat_map(|address| ["-a".to_owned(), address.clone()]),
            ),
        }
        arguments.extend(self.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
        arguments.extend(self.extra.iter().cloned());
        arguments
            .into_iter()
            .map(|argument| c_string("argument", &argument))
            .collect()
    }
}

/// The running EAL. There is no way to stop it short of ending the process: devices are closed by their ports, and memory
/// and locks go with the process.
#[derive(Debug)]
pub struct Eal {
    inner: Arc<EalInner>,
}

/// Proof that the EAL runs, and the lock around device changes. Kept by everything that was made with it.
#[derive(Debug)]
pub(crate) struct EalInner {
    /// Ports that have an owner.
    devices: Mutex<BTreeSet<u16>>,
}

impl EalInner {
    /// Adding, configuring and removing devices is not thread-safe in DPDK.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static INITIALISED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts the EAL on a thread of its own, because it pins the thread that starts it. The thread then sleeps.
    ///
    /// # Errors
    ///
    /// [`DpdkError::AlreadyInitialised`] the second time, even if the first failed; what `rte_eal_init` says otherwise.
    pub fn init(config: &EalConfig) -> Result<Self, DpdkError> {
        let arguments = config.arguments()?;
        if INITIALISED.swap(true, Ordering::SeqCst) {
            return Err(DpdkError::AlreadyInitialised);
        }
        let (sender, receiver) = mpsc::channel();
        let run = move || {
            let started = start(arguments);
            let has_started = started.is_ok();
            // The receiver waits for exactly this message.
            let _sent = sender.send(started);
            if has_started {
                loop {
                    std::thread::park();
                }
            }
        };
        let no_thread = |_| DpdkError::Argument {
            what: "thread",
            value: "dpdk-eal".to_owned(),
            reason: "cannot be started",
        };
        std::thread::Builder::new()
            .name("dpdk-eal".to_owned())
            .spawn(run)
            .map_err(no_thread)?;
        let died = DpdkError::Argument {
            what: "thread",
            value: "dpdk-eal".to_owned(),
            reason: "ended during start",
        };
        receiver.recv().unwrap_or(Err(died))?;
        Ok(Self {
            inner: Arc::new(EalInner {
                devices: Mutex::default(),
            }),
        })
    }

    /// Adds a device, virtual (`net_af_packet0,iface=eth1`) or PCI (`0000:03:00.0`), and returns its port; a device that is
    /// already there is returned as it is. Virtual devices that open sockets do it in the network namespace of the calling
    /// thread.
    pub fn attach(&self, device: &str) -> Result<PortNumber, DpdkError> {
        let arguments = c_string("device", device)?;
        let name = device.split(',').next().unwrap_or(device);
        let _devices = self.inner.lock();
        if let Ok(present) = self.port_by_name(name) {
            return Ok(present);
        }
        // SAFETY: a string that ends in NUL and lives across the call; the EAL runs.
        let code = unsafe { sys::rte_dev_probe(arguments.as_ptr()) };
        check("rte_dev_probe", || device.to_owned(), code)?;
        self.port_by_name(name)
    }

    /// The port of a device by its name: a PCI address or the name of a virtual device without its arguments.
    pub fn port_by_name(&self, name: &str) -> Result<PortNumber, DpdkError> {
        let c_name = c_string("device", name)?;
        let mut port = 0;
        // SAFETY: the name ends in NUL, the number is writable, both live across the call; the EAL runs.
        let code = unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &raw mut port) };
        check("rte_eth_dev_get_port_by_name", || name.to_owned(), code)?;
        Ok(PortNumber(port))
    }

    /// Every port that exists now.
    pub fn ports(&self) -> Vec<PortNumber> {
        let _devices = self.inner.lock();
        existing_ports().map(PortNumber).collect()
    }

    pub(crate) fn inner(&self) -> Arc<EalInner> {
        Arc::clone(&self.inner)
    }
}

/// Numbers of the ports that exist. Under the device lock.
pub(crate) fn existing_ports() -> impl Iterator<Item = u16> {
    let after = |from: u16| {
        // SAFETY: takes and returns numbers; the EAL runs.
        let found =
            unsafe { sys::rte_eth_find_next_owned_by(from, u64::from(sys::RTE_ETH_DEV_NO_OWNER)) };
        u16::try_from(found)
            .ok()
            .filter(|&port| u32::from(port) < sys::RTE_MAX_ETHPORTS)
    };
    core::iter::successors(after(0), move |&port| after(port + 1))
}

/// Runs `rte_eal_init` on the calling thread.
fn start(arguments: Vec<CString>) -> Result<(), DpdkError> {
    // DPDK permutes the array and keeps pointers into the strings: both stay for good.
    let pointers: Vec<*mut libc::c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let count = libc::c_int::try_from(pointers.len()).unwrap_or(libc::c_int::MAX);
    let pointers = Box::leak(pointers.into_boxed_slice());
    // SAFETY: `count` strings that end in NUL, in an array that is never freed; called once per process (`INITIALISED`).
    let code = unsafe { sys::rte_eal_init(count, pointers.as_mut_ptr()) };
    check("rte_eal_init", || "starting the EAL".to_owned(), code)
}

/// The first CPU of the calling thread's affinity.
fn first_allowed_cpu() -> usize {
    // SAFETY: a CPU set is an array of integers, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the set is writable, of the size given, and lives across the call.
    let got = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if got != 0 {
        return 0;
    }
    let is_allowed = |&cpu: &usize| {
        // SAFETY: reads one bit below the size of the set.
        unsafe { libc::CPU_ISSET(cpu, &set) }
    };
    (0..libc::CPU_SETSIZE as usize)
        .find(is_allowed)
        .unwrap_or(0)
}

pub(crate) fn c_string(what: &'static str, value: &str) -> Result<CString, DpdkError> {
    CString::new(value).map_err(|_| DpdkError::Argument {
        what,
        value: value.to_owned(),
        reason: "it holds a NUL byte",
    })
}

/// DPDK's name and version, as the library says it.
pub fn version() -> String {
    // SAFETY: returns a static string; works without the EAL.
    let text = unsafe { sys::rte_version() };
    // SAFETY: a static string that ends in NUL.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(config: &EalConfig) -> String {
        let arguments = config.arguments().unwrap();
        arguments
            .iter()
            .map(|argument| argument.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn arguments_say_what_the_configuration_says() {
        let config = EalConfig {
            cpu: Some(3),
            vdevs: vec!["net_null0".into()],
            ..EalConfig::default()
        };
        let expected = "marchproxy -l 3 --no-telemetry --log-level=4 --file-prefix=marchproxy --in-memory --no-pci --vdev=net_null0";
        assert_eq!(line(&config), expected);
        let devices = Devices::Pci(vec!["0000:03:00.0".into(), "0000:04:00.0".into()]);
        let memory = Memory::Ordinary { megabytes: 64 };
        let config = EalConfig {
            cpu: Some(0),
            devices,
            memory,
            ..EalConfig::default()
        };
        let expected = "--no-huge --no-shconf -m 64 -a 0000:03:00.0 -a 0000:04:00.0";
        assert!(
            line(&config).ends_with(expected) && !line(&config).contains("--in-memory"),
            "{}",
            line(&config)
        );
    }

    #[test]
    fn no_device_listed_means_none_is_taken() {
        let config = EalConfig {
            devices: Devices::Pci(Vec::new()),
            ..EalConfig::default()
        };
        assert!(line(&config).contains("--no-pci"));
    }

    #[test]
    fn a_nul_byte_is_refused_by_name() {
        let config = EalConfig {
            file_prefix: "a\0b".into(),
            ..EalConfig::default()
        };
        assert!(config.arguments().unwrap_err().to_string().contains("NUL"));
    }

    #[test]
    fn the_library_says_its_version() {
        assert!(version().starts_with("DPDK "), "{}", version());
    }
}
