//! What has to outlive the daemon and is not in the maps, in a small file each: a daemon that starts
//! while the DNS is silent has its servers all the same, and ends drains when it should. A thread
//! writes, so that the loop of the daemon waits for no disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::thread::{self, JoinHandle};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Which file.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// What is in it, for people.
    pub what: &'static str,
}

/// What the DNS said last.
pub const NAMES: File = File { name: "names.json", what: "answers of the DNS" };
/// Deadlines of drains.
pub const DEADLINES: File = File { name: "drains.json", what: "deadlines of drains" };

/// Writes one of them. Its end waits until the last order is carried out.
#[derive(Debug)]
pub struct Store<T> {
    folder: PathBuf,
    file: File,
    writer: OnceLock<Writer<T>>,
}

#[derive(Debug)]
struct Writer<T> {
    /// `None` at the end.
    orders: Option<mpsc::Sender<Vec<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        // It ends when there are no more orders.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<T: Serialize + Send + 'static> Store<T> {
    /// In this folder, which need not exist yet.
    #[must_use]
    pub const fn new(folder: PathBuf, file: File) -> Self {
        Self { folder, file, writer: OnceLock::new() }
    }

    /// Writes these in place of what was there before.
    pub fn keep(&self, all: Vec<T>) {
        let writer = self.writer.get_or_init(|| {
            let (orders, todo) = mpsc::channel::<Vec<T>>();
            let (folder, file) = (self.folder.clone(), self.file);
            let thread = thread::spawn(move || {
                while let Ok(all) = todo.recv() {
                    // Behind a slow disk only the last one counts.
                    let all = todo.try_iter().last().unwrap_or(all);
                    if let Err(error) = write(&folder, file, &all) {
                        tracing::warn!("{}: {} not kept: {error}", folder.display(), file.what);
                    }
                }
            });
            Writer { orders: Some(orders), thread: Some(thread) }
        });
        if let Some(orders) = &writer.orders {
            // It ends with this.
            let _ = orders.send(all);
        }
    }
}

fn write<T: Serialize>(folder: &Path, file: File, all: &[T]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let new = folder.join(format!("{}.new", file.name));
    fs::write(&new, serde_json::to_vec(all)?)?;
    fs::rename(new, folder.join(file.name))
}

/// What the daemon before this one has kept; nothing if there was none.
#[must_use]
pub fn load<T: DeserializeOwned>(folder: &Path, file: File) -> Vec<T> {
    let Ok(text) = fs::read(folder.join(file.name)) else { return Vec::new() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{}: {} is of no use: {error}", folder.display(), file.name);
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::draining::Kept;
    use crate::engine::names::{Answer, Query, Target};

    #[test]
    fn its_end_waits_until_the_last_order_is_carried_out() {
        let folder = std::env::temp_dir().join(format!("pen-store-end-{}", std::process::id()));
        let kept = |until_ns| Kept { service: "web".into(), backend: "b1".into(), until_ns };
        let store = Store::new(folder.clone(), DEADLINES);
        (0..1000).for_each(|until_ns| store.keep(vec![kept(until_ns)]));
        drop(store);
        assert_eq!(load::<Kept>(&folder, DEADLINES), [kept(999)]);
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn what_was_kept_is_read_again_and_nonsense_is_nothing() {
        let folder = std::env::temp_dir().join(format!("pen-store-{}", std::process::id()));
        assert_eq!(load::<(Query, Answer)>(&folder, NAMES), []);
        let query = Query { name: "app.example".into(), srv: false, v6: false, both: true };
        let target = Target { address: "10.0.0.1".parse().expect("literal"), srv: None };
        let answer = Answer { targets: vec![target], ttl: Duration::from_secs(3) };
        write(&folder, NAMES, &[(query.clone(), answer.clone())]).expect("writable");
        assert_eq!(load::<(Query, Answer)>(&folder, NAMES), [(query, answer)]);
        fs::write(folder.join(NAMES.name), "{").expect("writable");
        assert_eq!(load::<(Query, Answer)>(&folder, NAMES), []);
        let kept = Kept { service: "web".into(), backend: "b1".into(), until_ns: 7 };
        write(&folder, DEADLINES, std::slice::from_ref(&kept)).expect("writable");
        assert_eq!(load::<Kept>(&folder, DEADLINES), [kept]);
        fs::remove_dir_all(folder).expect("clean up");
    }
}
