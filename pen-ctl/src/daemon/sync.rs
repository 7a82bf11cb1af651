//! The thread that keeps peers informed, as the daemon sees it.

use std::sync::Arc;

use anyhow::Context;
use pen_common::hash::Secret;
use tokio::sync::mpsc;

use super::random_secret;
use crate::config::Config;
use crate::engine::event::Event;
use crate::engine::sync::view::View;
use crate::engine::sync::{Key, Settings};
use crate::io::dataplane::Dataplane;
use crate::io::sync::{Beginning, Thread};

/// The thread, if there are peers.
pub(super) struct Sync {
    thread: Option<Thread>,
}

impl Sync {
    pub(super) fn start(
        config: &Config,
        dataplane: &Dataplane,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let Some(sync) = &config.sync else { return Ok(Self { thread: None }) };
        let mut seed = [0; 32];
        for half in seed.chunks_mut(16) {
            let [a, b] = random_secret()?;
            half.copy_from_slice(&[a.to_be_bytes(), b.to_be_bytes()].concat());
        }
        let beginning = Beginning {
            settings: Settings {
                name: config.node.name.clone(),
                key: Key::new(&sync.key.0),
                peers: sync.peers.clone(),
                seed,
            },
            listen: sync.listen,
            folder: dataplane.folder().to_owned(),
            events,
        };
        let thread = Thread::start(beginning).context("the thread for peers")?;
        Ok(Self { thread: Some(thread) })
    }

    pub(super) fn share(&self, view: Arc<View>, secret: Secret) {
        if let Some(thread) = &self.thread {
            thread.share(view, secret);
        }
    }
}
