//! What can go wrong with the kernel.

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why the program is not running as asked.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// The kernel did not take the maps of the object.
    #[error("cannot load the XDP object: {}", chain(.source))]
    Object {
        /// What the kernel said.
        source: EbpfError,
    },
    /// The verifier or the kernel refused the program.
    #[error("cannot load the XDP program: {}", chain(.source))]
    Load {
        /// What the kernel said.
        source: ProgramError,
    },
    /// The object lacks something: it was not built from these sources.
    #[error("the XDP object has no `{name}`")]
    Missing {
        /// Name of the program or map.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("map {name}: {}", chain(.source))]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// More receive queues than the program has room for.
    #[error("receive queue {queue} is beyond the {most} that the XDP program serves")]
    Queue {
        /// The queue asked for.
        queue: u32,
        /// How many there may be.
        most: u32,
    },
    /// A socket could not be registered or removed.
    #[error("AF_XDP socket of receive queue {queue}: {}", chain(.source))]
    Socket {
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: MapError,
    },
    /// No such interface.
    #[error("no interface {interface}: {source}")]
    Interface {
        /// The name asked for.
        interface: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another program is on the interface.
    #[error("{interface} already has an XDP program: {name} (id {id}); it is not replaced")]
    Foreign {
        /// The interface.
        interface: String,
        /// Name of the program that is there, as the kernel knows it.
        name: String,
        /// Its number.
        id: u32,
    },
    /// This program is attached already.
    #[error("the XDP program is already attached to {interface}")]
    Twice {
        /// Where it is.
        interface: String,
    },
    /// Neither native nor generic mode works.
    #[error("cannot attach the XDP program to {interface}: {}", chain(.source))]
    Attach {
        /// The interface.
        interface: String,
        /// What the kernel said to generic mode.
        source: ProgramError,
    },
    /// The program could not be taken off.
    #[error("cannot detach the XDP program from {interface}: {}", chain(.source))]
    Detach {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The kernel did not run the program on a frame.
    #[error("cannot run the XDP program on a frame: {}", chain(.source))]
    DryRun {
        /// What the kernel said.
        source: ProgramError,
    },
}

impl LoaderError {
    pub(crate) fn map(name: &'static str, source: MapError) -> LoaderError {
        LoaderError::Map { name, source }
    }
}

/// An error and all of its causes in one line, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
