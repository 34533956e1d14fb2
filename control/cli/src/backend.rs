//! Taking backends out and bringing them back.

use std::path::Path;

use march_proto::v1;
use serde_json::json;

use crate::args::{BackendAction, BackendArgs, Output};
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::output;

pub(crate) async fn backend(
    socket: &Path,
    output: Output,
    args: BackendArgs,
) -> Result<Code, Failure> {
    let state = match args.action {
        BackendAction::Drain => v1::AdminState::Drain,
        BackendAction::Enable => v1::AdminState::Enabled,
        BackendAction::Offline => v1::AdminState::Offline,
    };
    let (address, port) = args.backend;
    let wanted = v1::BackendAdmin {
        pool: args.pool,
        address: address.to_string(),
        port: port.into(),
        state: state.into(),
    };
    let request = v1::SetBackendStateRequest {
        backend: Some(wanted),
    };
    let response = control(socket)
        .await?
        .set_backend_state(request)
        .await?
        .into_inner();
    let now: Vec<v1::BackendAdmin> = response
        .before
        .iter()
        .map(|before| v1::BackendAdmin {
            state: state.into(),
            ..before.clone()
        })
        .collect();
    output::value(
        output,
        &json!({ "before": response.before, "now": now }),
        || {
            response.before.iter().fold(String::new(), |text, before| {
                let name = format!("{}/{}", before.pool, endpoint(&before.address, before.port));
                match output {
                    Output::Name => format!("{text}{name}\n"),
                    _ if before.state() == state => {
                        format!("{text}{name} stays {}\n", state.word())
                    }
                    _ => format!(
                        "{text}{name} {} -> {}\n",
                        before.state().word(),
                        state.word()
                    ),
                }
            })
        },
    )?;
    Ok(Code::Ok)
}

/// `address:port`, `[address]:port`, or the address alone for port 0.
pub(crate) fn endpoint(address: &str, port: u32) -> String {
    match (port, address.contains(':')) {
        (0, _) => address.to_owned(),
        (_, true) => format!("[{address}]:{port}"),
        (_, false) => format!("{address}:{port}"),
    }
}
