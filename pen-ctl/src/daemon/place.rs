//! Takes the place of a daemon: the lock on the pins and the control socket. From one that runs, if
//! that is wanted: it is asked to leave, which leaves the kernel forwarding, and waited for.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Places;
use crate::api::{Left, Request};
use crate::io::clock;
use crate::io::control::client::{Client, ClientError};
use crate::io::control::server::Socket;
use crate::io::dataplane::{Dataplane, DataplaneError, Lock};
use crate::io::proxy::{Estate, Heir};

/// A daemon that was asked to leave has left after this time, or never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(10);

/// What a daemon needs for itself.
pub(super) struct Place {
    pub(super) lock: Lock,
    pub(super) socket: Socket,
    /// What the one before has left.
    pub(super) estate: Estate,
}

/// Takes the place.
///
/// # Errors
///
/// If another daemon has it and does not leave; nothing is left behind then.
pub(super) async fn take(socket: &Path, places: &Places) -> anyhow::Result<Place> {
    let mut patience = Duration::ZERO;
    let mut heir = None;
    if places.replace {
        // Who cannot start must not send away one that runs.
        Dataplane::rehearse(&places.object, &places.pins)?;
        if let Some(client) = reach(socket).await? {
            // Before it is asked: it looks for an heir when it leaves.
            let waiting = Heir::new(socket).with_context(|| {
                format!(
                    "{}: the pend there goes on: this one cannot listen beside it for its sockets",
                    socket.display()
                )
            })?;
            let pid = ask_to_leave(client, socket).await?;
            patience = PATIENCE;
            heir = Some((waiting, pid));
        }
    }
    let in_use = |error: &DataplaneError| matches!(error, DataplaneError::InUse { .. });
    let lock = retry(patience, || Lock::take(&places.pins), in_use).await?;
    let taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let socket = retry(patience, || Socket::bind(socket), taken)
        .await
        .with_context(|| socket.display().to_string())?;
    // It has left, whatever it had to leave.
    let estate = heir.map_or_else(|| Ok(Estate::default()), |(heir, pid)| heir.inherit(pid));
    let estate = estate.unwrap_or_else(|error| {
        tracing::warn!(
            "clients that connect now may be turned away: no sockets inherited: {error}"
        );
        Estate::default()
    });
    Ok(Place { lock, socket, estate })
}

/// The daemon behind a socket, if there is one.
async fn reach(socket: &Path) -> anyhow::Result<Option<Client>> {
    match Client::connect(socket).await {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::Unreachable { .. }) => {
            tracing::info!("{}: nobody is there to be replaced", socket.display());
            Ok(None)
        }
        Err(error) => bail!("{}: {error}", socket.display()),
    }
}

/// Asks a daemon to leave: the process that does.
async fn ask_to_leave(mut client: Client, socket: &Path) -> anyhow::Result<u32> {
    let answer = client.ask(&Request::Leave).await.with_context(|| {
        format!(
            "{}: the pend there does not leave; end it with SIGKILL, which leaves the kernel \
             forwarding, and start this one again",
            socket.display()
        )
    })?;
    let Left { pid, .. } = serde_json::from_slice(&answer).context("what the pend there says")?;
    tracing::info!("process {pid} leaves; the kernel goes on forwarding meanwhile");
    Ok(pid)
}

/// Tries until it succeeds, fails in another way than `is_transient`, or time is up.
async fn retry<T, E>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
    is_transient: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = clock::now() + patience;
    loop {
        match attempt() {
            Err(error) if is_transient(&error) && clock::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}
