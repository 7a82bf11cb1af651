//! What the DNS said last, in a file: a daemon that starts while the DNS is silent has its servers all
//! the same. A thread writes, so that the loop of the daemon waits for no disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use crate::engine::names::{Answer, Query};

const FILE: &str = "names.json";

/// Writes.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    thread: std::sync::OnceLock<mpsc::Sender<Vec<(Query, Answer)>>>,
}

impl Store {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder, thread: std::sync::OnceLock::new() }
    }

    pub(super) fn keep(&self, answers: Vec<(Query, Answer)>) {
        let thread = self.thread.get_or_init(|| {
            let (orders, todo) = mpsc::channel::<Vec<_>>();
            let folder = self.folder.clone();
            thread::spawn(move || {
                while let Ok(answers) = todo.recv() {
                    if let Err(error) = write(&folder, &answers) {
                        tracing::warn!(
                            "{}: answers of the DNS not kept: {error}",
                            folder.display()
                        );
                    }
                }
            });
            orders
        });
        // It ends with the daemon.
        let _ = thread.send(answers);
    }
}

fn write(folder: &Path, answers: &[(Query, Answer)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let new = folder.join("names.json.new");
    fs::write(&new, serde_json::to_vec(answers)?)?;
    fs::rename(new, folder.join(FILE))
}

/// What the daemon before this one was told last; nothing if there was none.
#[must_use]
pub fn load(folder: &Path) -> Vec<(Query, Answer)> {
    let Ok(text) = fs::read(folder.join(FILE)) else { return Vec::new() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{}: {FILE} is of no use: {error}", folder.display());
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::names::Target;

    #[test]
    fn what_was_kept_is_read_again_and_nonsense_is_nothing() {
        let folder = std::env::temp_dir().join(format!("pen-names-{}", std::process::id()));
        assert_eq!(load(&folder), []);
        let query = Query { name: "app.example".into(), srv: false, v6: false, both: true };
        let target = Target { address: "10.0.0.1".parse().expect("literal"), srv: None };
        let answer = Answer { targets: vec![target], ttl: Duration::from_secs(3) };
        write(&folder, &[(query.clone(), answer.clone())]).expect("writable");
        assert_eq!(load(&folder), [(query, answer)]);
        fs::write(folder.join(FILE), "{").expect("writable");
        assert_eq!(load(&folder), []);
        fs::remove_dir_all(folder).expect("clean up");
    }
}
