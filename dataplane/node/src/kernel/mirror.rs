//! The live mirror: one netlink socket that is subscribed before it reads everything, so that nothing is missed between.
//!
//! The kernel drops notifications when its queue is full, and removes some IPv4 routes without a word when a link goes
//! down; in both cases the mirror reads the tables again.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::KernelError;
use super::decode::decode;
use super::state::{Effect, KernelState, Merge};

type Messages = UnboundedReceiver<(
    NetlinkMessage<RouteNetlinkMessage>,
    rtnetlink::sys::SocketAddr,
)>;

/// What the mirror follows.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// A live copy of the kernel's network state. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {
    state: Arc<RwLock<KernelState>>,
    version: watch::Receiver<u64>,
    read_again: mpsc::Sender<Done>,
}

/// Told once everything was read again.
type Done = oneshot::Sender<Result<(), KernelError>>;

/// How long the kernel may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The tasks behind a mirror; they end when this is dropped.
#[derive(Debug)]
pub struct MirrorTasks(Vec<JoinHandle<()>>);

impl Drop for MirrorTasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Two sockets: one that notifications come in on, one for requests whose answers must not be lost. The kernel drops
/// messages, answers too, for a socket whose queue is full of notifications.
#[derive(Clone, Debug)]
pub struct Handles {
    /// For requests.
    pub requests: Handle,
    /// For messages that need no answer.
    pub nudges: Handle,
}

impl Mirror {
    /// Subscribes, reads everything once, and follows from then on. Also returns the handles for messages of our own.
    pub async fn start() -> Result<(Self, Handles, MirrorTasks), KernelError> {
        let (notifications, nudges, messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(KernelError::Socket)?;
        let (answers, handle, unsolicited) =
            rtnetlink::new_connection().map_err(KernelError::Socket)?;
        let mut tasks = vec![
            tokio::spawn(notifications),
            tokio::spawn(answers),
            tokio::spawn(unsolicited.for_each(|_| std::future::ready(()))),
        ];
        let state = read_everything(&handle).await?;
        let state = Arc::new(RwLock::new(state));
        let (announce, version) = watch::channel(1);
        let (read_again, asked) = mpsc::channel(1);
        let follower = Follower {
            handle: handle.clone(),
            state: state.clone(),
            announce,
        };
        tasks.push(tokio::spawn(follower.run(messages, asked)));
        let handles = Handles {
            requests: handle,
            nudges,
        };
        let mirror = Self {
            state,
            version,
            read_again,
        };
        Ok((mirror, handles, MirrorTasks(tasks)))
    }

    /// The state now. Hold the guard briefly and never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, KernelState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the state by what the kernel says now. Notifications that come meanwhile are folded in after it.
    pub(super) async fn read_again(&self) -> Result<(), KernelError> {
        let ended = || KernelError::Connection {
            what: "read all tables".to_owned(),
            reason: "the mirror has ended".to_owned(),
        };
        let (done, answer) = oneshot::channel();
        self.read_again.send(done).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// A receiver that wakes whenever forwarding state moved.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }
}

/// The only writer of the state: a table that is read while notifications are folded in elsewhere would undo them.
struct Follower {
    handle: Handle,
    state: Arc<RwLock<KernelState>>,
    announce: watch::Sender<u64>,
}

impl Follower {
    async fn run(self, mut messages: Messages, mut asked: mpsc::Receiver<Done>) {
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some((first, _)) => self.on_messages(first, &mut messages).await,
                    None => return,
                },
                Some(done) = asked.recv() => {
                    let result = self.read_again().await;
                    // The one who asked may have given up.
                    let _ = done.send(result);
                }
            }
        }
    }

    async fn on_messages(
        &self,
        first: NetlinkMessage<RouteNetlinkMessage>,
        messages: &mut Messages,
    ) {
        let mut effect = Effect::None;
        let mut has_overrun = fold(&self.state, &first, &mut effect);
        // What has piled up meanwhile is one change for those who compile from it.
        while let Ok((message, _)) = messages.try_recv() {
            has_overrun |= fold(&self.state, &message, &mut effect);
        }
        if has_overrun {
            tracing::warn!(
                event = "kernel.mirror.overrun",
                "netlink notifications were lost; reading all tables again"
            );
        }
        if has_overrun || effect == Effect::ChangedRoutesUnknown {
            if let Err(error) = self.read_again().await {
                tracing::error!(event = "kernel.mirror.failed", %error, "cannot read kernel tables");
            }
            effect = Effect::Changed;
        }
        if effect != Effect::None {
            self.announce.send_modify(|version| *version += 1);
        }
    }

    async fn read_again(&self) -> Result<(), KernelError> {
        let fresh = read_everything(&self.handle).await?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

/// Folds one notification in; true if the kernel said that it lost some.
fn fold(
    state: &RwLock<KernelState>,
    message: &NetlinkMessage<RouteNetlinkMessage>,
    effect: &mut Effect,
) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => {
            let merge = if message.header.flags & NLM_F_REPLACE == 0 {
                Merge::Append
            } else {
                Merge::Replace
            };
            if let Some(change) = decode(inner, merge) {
                let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
                *effect = (*effect).max(state.apply(change));
            }
            false
        }
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

async fn read_everything(handle: &Handle) -> Result<KernelState, KernelError> {
    let mut state = KernelState::default();
    let mut route4 = RouteMessage::default();
    route4.header.address_family = AddressFamily::Inet;
    let mut route6 = RouteMessage::default();
    route6.header.address_family = AddressFamily::Inet6;
    let requests = [
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        RouteNetlinkMessage::GetRoute(route4),
        RouteNetlinkMessage::GetRoute(route6),
        RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
    ];
    for request in requests {
        for message in dump(handle, request).await? {
            if let Some(change) = decode(&message, Merge::Append) {
                state.apply(change);
            }
        }
    }
    Ok(state)
}

/// A socket has one dump at a time: the kernel refuses a second one with EBUSY.
static DUMPING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Every message that answers a dump request.
pub(super) async fn dump(
    handle: &Handle,
    request: RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
    let what = super::request_name(&request);
    let _turn = DUMPING.lock().await;
    within(what, read_answers(handle, what, request)).await
}

/// The result of `exchange`, or an error where the kernel does not answer.
pub(super) async fn within<T>(
    what: &str,
    exchange: impl Future<Output = Result<T, KernelError>>,
) -> Result<T, KernelError> {
    tokio::time::timeout(ANSWER, exchange)
        .await
        .unwrap_or_else(|_| {
            Err(KernelError::Connection {
                what: what.to_owned(),
                reason: format!("no answer from the kernel within {} s", ANSWER.as_secs()),
            })
        })
}

async fn read_answers(
    handle: &Handle,
    what: &str,
    request: RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = Vec::new();
    let mut stream = handle
        .clone()
        .request(message)
        .map_err(|error| KernelError::netlink(what, &error))?;
    while let Some(answer) = stream.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(KernelError::Refused {
                    what: what.into(),
                    error: error.to_io(),
                });
            }
            _ => {}
        }
    }
    Ok(answers)
}
