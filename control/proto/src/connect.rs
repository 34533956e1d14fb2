//! Reaching the daemon on its unix socket.

use std::path::Path;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::MAX_MESSAGE_BYTES;
use crate::status::MAX_DETAIL_BYTES;
use crate::v1::control_client::ControlClient;
use crate::v1::node_client::NodeClient;

/// Room for the errors of a status, which base64 makes a third longer, and for everything else.
const MAX_HEADER_BYTES: u32 = 4 << 20;
const _: () = assert!(MAX_HEADER_BYTES as usize > MAX_DETAIL_BYTES * 3 / 2);

/// Connects to the socket. Fails when nobody listens there or the socket must not be opened.
pub async fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    // An absolute path: a relative one would be taken for the host of the address.
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    Endpoint::from_shared(format!("unix://{}", socket.display()))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .connect()
        .await
}

/// The operator's API with its message bounds.
pub fn control(channel: Channel) -> ControlClient<Channel> {
    ControlClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The node's session with its message bounds.
pub fn node(channel: Channel) -> NodeClient<Channel> {
    NodeClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
