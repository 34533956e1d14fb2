//! What to open and how.

use crate::PortError;

/// One queue of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XskTarget {
    /// Interface name in the network namespace of the thread that opens the ports.
    pub interface: String,
    /// Queue index.
    pub queue: u32,
}

/// Which copy mode to bind with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// Zero-copy where the driver has it, else copy; the port says why ([`super::XskPort::copy_reason`]).
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// Copy, even where zero-copy would work.
    Copy,
}

/// Lets the lcore's own system calls drive the device's queue instead of its interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// Frames that one call may take from the device.
    pub budget: u16,
    /// Microseconds that one call may wait for the device.
    pub idle_us: u32,
}

/// Sizes and behaviour of the `AF_XDP` ports of one lcore.
#[derive(Clone, Copy, Debug)]
pub struct XskConfig {
    /// Slots of the receive and of the fill ring, a power of two.
    pub rx_ring: u32,
    /// Slots of the transmit and of the completion ring, a power of two.
    pub tx_ring: u32,
    /// Frames of the common pool that one port accounts for; the pool has this many times the number of ports.
    pub frames_per_port: u32,
    /// Bytes in front of a frame, 256 to 1024. The kernel always keeps 256 for XDP programs; more is added to them.
    pub headroom: u16,
    /// Copy or zero-copy.
    pub mode: CopyMode,
    /// Busy polling. Off by default: it moves the device's work onto the lcore, which only pays where no other core has time for it.
    pub busy_poll: Option<BusyPoll>,
}

/// Bytes that the kernel keeps in front of every received frame (`XDP_PACKET_HEADROOM`).
pub(super) const KERNEL_HEADROOM: u16 = 256;

impl Default for XskConfig {
    fn default() -> Self {
        Self {
            // Measured over veth under overload: 13 % more frames than 2048, which in turn beat 512 by 10 %. The ring bridges
            // the moments in which one of the two cores is away.
            rx_ring: 4096,
            tx_ring: 2048,
            frames_per_port: 8192,
            headroom: KERNEL_HEADROOM,
            mode: CopyMode::Auto,
            busy_poll: None,
        }
    }
}

impl XskConfig {
    pub(super) fn check(&self) -> Result<(), PortError> {
        let ring = |field, size: u32| {
            let good = size.is_power_of_two() && (64..=32_768).contains(&size);
            let reason = "a ring is a power of two from 64 to 32768";
            if good {
                Ok(())
            } else {
                Err(PortError::Config {
                    field,
                    value: u64::from(size),
                    reason,
                })
            }
        };
        ring("rx_ring", self.rx_ring)?;
        ring("tx_ring", self.tx_ring)?;
        if !(KERNEL_HEADROOM..=1024).contains(&self.headroom) {
            let value = u64::from(self.headroom);
            return Err(PortError::Config {
                field: "headroom",
                value,
                reason: "from 256 to 1024 bytes",
            });
        }
        if self.frames_per_port < 128 || self.frames_per_port > 1 << 20 {
            let value = u64::from(self.frames_per_port);
            return Err(PortError::Config {
                field: "frames_per_port",
                value,
                reason: "from 128 to 1048576",
            });
        }
        Ok(())
    }
}
