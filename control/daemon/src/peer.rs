//! Who is at the other end of the socket, by the kernel's word.

use march_proto::GROUP;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Status};

/// A peer that may talk to the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The name of its user, or `uid:N`.
    pub name: String,
}

/// Refuses peers that are neither root nor in the group.
pub(crate) fn check(mut request: Request<()>) -> Result<Request<()>, Status> {
    let info = request.extensions().get::<UdsConnectInfo>();
    let Some(credentials) = info.and_then(|info| info.peer_cred) else {
        return Err(Status::permission_denied(
            "the kernel does not say who is calling",
        ));
    };
    let name = user_name(credentials.uid());
    if credentials.uid() != 0 && !is_member(&name, credentials.gid()) {
        tracing::warn!(event = "peer.denied", uid = credentials.uid(), user = name);
        return Err(Status::permission_denied(format!(
            "user {name} is neither root nor in the group {GROUP}; add it with `usermod -aG {GROUP} {name}`"
        )));
    }
    request.extensions_mut().insert(Peer { name });
    Ok(request)
}

/// The peer of a request that [`check`] let through.
pub(crate) fn name_of<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<Peer>();
    peer.expect("every request passes the check").name.clone()
}

fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("uid:{uid}"))
}

/// The number of a group of this machine.
pub(crate) fn group_id(group: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    find_group(&groups, group).map(|(id, _)| id)
}

fn is_member(user: &str, primary: u32) -> bool {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    find_group(&groups, GROUP).is_some_and(|(id, members)| {
        id == primary || members.split(',').any(|member| member == user)
    })
}

/// Number and member list of a group in the text of `/etc/group`.
fn find_group<'a>(groups: &'a str, group: &str) -> Option<(u32, &'a str)> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then_some(())?;
        let id = fields.nth(1)?.parse().ok()?;
        Some((id, fields.next().unwrap_or("")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_exact_name() {
        let groups = "root:x:0:\nmarchproxyx:x:7:eve\nmarchproxy:x:990:ann,bob\n";
        assert_eq!(find_group(groups, "marchproxy"), Some((990, "ann,bob")));
        assert_eq!(find_group(groups, "march"), None);
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(4_000_000_000), "uid:4000000000");
    }
}
