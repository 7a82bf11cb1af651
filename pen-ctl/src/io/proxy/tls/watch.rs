//! Sees that certificates are renewed in place, and that they are about to expire. It looks at the files
//! every few seconds, which also sees what notices of the kernel do not: a folder behind a link that was
//! exchanged, as certbot and Kubernetes do, and files on another machine.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;

use super::store::Store;
use crate::engine::event::Event;
use crate::io::clock;

/// From one look to the next. What has changed is used at the next one if it has come to rest by then:
/// chain and key are two files.
const INTERVAL: Duration = Duration::from_secs(2);

/// A thread that looks at files, until dropped.
#[derive(Debug)]
pub(in crate::io::proxy) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(in crate::io::proxy) fn start(
        store: Arc<Mutex<Store>>,
        events: mpsc::Sender<Event>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = thread::Builder::new().name("certificates".to_owned()).spawn(move || {
            let mut untold = None;
            loop {
                let now = i64::try_from(clock::wall_seconds()).unwrap_or(i64::MAX);
                let news = store.lock().unwrap_or_else(PoisonError::into_inner).look(now);
                // The daemon may be busy: then it hears it at the next look.
                untold =
                    merge(untold.take(), news).and_then(|event| match events.try_send(event) {
                        Ok(()) => None,
                        Err(error) => Some(error.into_inner()),
                    });
                match stopped.recv_timeout(INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// What was not told yet, and what is new.
fn merge(before: Option<Event>, now: Option<Event>) -> Option<Event> {
    match (before, now) {
        (
            Some(Event::CertificateNews { news: mut told, .. }),
            Some(Event::CertificateNews { news, problems }),
        ) => {
            told.extend(news);
            Some(Event::CertificateNews { news: told, problems })
        }
        (before, now) => now.or(before),
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
