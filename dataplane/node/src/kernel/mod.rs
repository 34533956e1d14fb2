//! The kernel as L2/L3 control plane: what it knows is mirrored, what the data plane needs of it is asked for or changed.
//!
//! Entry point: [`Kernel::connect`]. Everything here acts in the network namespace of the calling process.

pub mod change;
pub mod decode;
pub mod mirror;
pub mod resolve;
pub mod state;
pub mod sysctl;

use std::io;

use rtnetlink::packet_route::RouteNetlinkMessage;

pub use mirror::{Mirror, MirrorTasks};
pub use resolve::Resolver;
pub use state::{KernelState, Prefix};

/// What can go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel said no.
    #[error("{what}: {error}")]
    Refused {
        /// What was asked for, in words.
        what: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// The netlink connection broke.
    #[error("{what}: {reason}")]
    Connection {
        /// What was asked for, in words.
        what: String,
        /// Why it could not be asked.
        reason: String,
    },
    /// A file under `/proc/sys` could not be read or written.
    #[error("{path}: {error}")]
    Sysctl {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// An external tool failed.
    #[error("{tool}: {reason}")]
    Tool {
        /// The command.
        tool: String,
        /// Its error output or why it did not start.
        reason: String,
    },
    /// There is no such interface.
    #[error("there is no interface {0}")]
    NoInterface(String),
}

impl KernelError {
    fn netlink(what: &str, error: &rtnetlink::Error) -> Self {
        Self::Connection {
            what: what.into(),
            reason: error.to_string(),
        }
    }

    /// The kernel's error number, where it was the kernel that refused.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Refused { error, .. } | Self::Sysctl { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }
}

/// The mirror and the handle for changes, together.
#[derive(Debug)]
pub struct Kernel {
    /// What the kernel knows.
    pub mirror: Mirror,
    /// For requests; cheap to clone.
    pub handle: rtnetlink::Handle,
    /// For messages that need no answer; cheap to clone.
    pub nudges: rtnetlink::Handle,
    _tasks: MirrorTasks,
}

impl Kernel {
    /// Opens the netlink socket and reads everything once.
    pub async fn connect() -> Result<Self, KernelError> {
        let (mirror, handles, tasks) = Mirror::start().await?;
        Ok(Self {
            mirror,
            handle: handles.requests,
            nudges: handles.nudges,
            _tasks: tasks,
        })
    }

    /// Reads everything again and returns once the mirror has it: for those who just changed something themselves.
    pub async fn settle(&self) -> Result<(), KernelError> {
        self.mirror.read_again().await
    }
}

fn request_name(request: &RouteNetlinkMessage) -> &'static str {
    match request {
        RouteNetlinkMessage::GetLink(_) => "read links",
        RouteNetlinkMessage::GetAddress(_) => "read addresses",
        RouteNetlinkMessage::GetRoute(_) => "read routes",
        RouteNetlinkMessage::GetNeighbour(_) => "read neighbours",
        _ => "netlink request",
    }
}
