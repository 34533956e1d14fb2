//! A network namespace for the calling thread, gone with it.

use std::process::Command;

/// Moves the calling thread into a new network namespace without a name: whatever happens to the test, nothing stays.
/// Child processes of this thread inherit it.
pub fn enter() {
    // SAFETY: detaches this thread's own network namespace; no memory is involved.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        left,
        0,
        "a network namespace needs root: {}",
        std::io::Error::last_os_error()
    );
    ip(&["link", "set", "lo", "up"]);
    // No router solicitations or duplicate address detection between the test's frames.
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")
        .expect("sysctl of the new namespace");
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
        .expect("sysctl of the new namespace");
}

/// Gives the calling thread a BPF file system of its own, for drivers whose library writes there.
pub fn own_bpf_file_system() {
    // SAFETY: detaches this thread's own mount namespace; no memory is involved.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(
        left,
        0,
        "a mount namespace needs root: {}",
        std::io::Error::last_os_error()
    );
    let mount = |what: &std::ffi::CStr, at: &std::ffi::CStr, flags| {
        // SAFETY: strings that end in NUL and live across the call; no data.
        let mounted = unsafe {
            libc::mount(
                what.as_ptr(),
                at.as_ptr(),
                what.as_ptr(),
                flags,
                std::ptr::null(),
            )
        };
        assert_eq!(
            mounted,
            0,
            "mount at {at:?}: {}",
            std::io::Error::last_os_error()
        );
    };
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE);
    mount(c"bpf", c"/sys/fs/bpf", 0);
}

/// A veth pair, both ends up, in the calling thread's namespace.
pub fn veth(left: &str, right: &str) {
    ip(&["link", "add", left, "type", "veth", "peer", "name", right]);
    for end in [left, right] {
        ip(&["link", "set", end, "arp", "off"]);
        ip(&["link", "set", end, "up"]);
    }
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Index of an interface.
pub fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).expect("no NUL in an interface name");
    // SAFETY: a string that ends in NUL and lives across the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "interface {name:?} exists");
    index
}
