//! Files under `/proc/sys/net` of this network namespace.

use super::KernelError;

/// Path of a per-interface setting, e.g. `("ipv4", "eth1", "forwarding")`.
#[must_use]
pub fn interface_path(family: &str, interface: &str, setting: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{interface}/{setting}")
}

/// Reads a setting without its newline.
pub fn read(path: &str) -> Result<String, KernelError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(KernelError::Sysctl {
            path: path.to_owned(),
            error,
        }),
    }
}

/// Writes a setting.
pub fn write(path: &str, value: &str) -> Result<(), KernelError> {
    std::fs::write(path, value).map_err(|error| KernelError::Sysctl {
        path: path.to_owned(),
        error,
    })
}
