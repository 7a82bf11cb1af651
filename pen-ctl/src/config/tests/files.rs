//! Reading files: the order of conf.d, and files that cannot be read.

use std::fs;
use std::path::PathBuf;

use super::{BASE, FakeSystem};
use crate::config::{ErrorKind, load};

/// A folder that is gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pen-config-{test}-{}", std::process::id()));
        fs::create_dir_all(path.join("conf.d")).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nlisten = \"192.0.2.10:{port}\"\nbackends = [\"10.0.0.11\"]"
    )
}

#[test]
fn conf_d_is_read_in_lexical_order_without_hidden_and_other_files() {
    let folder = Folder::new("order");
    let main = folder.write("pen.toml", BASE);
    folder.write("conf.d/20.toml", service("c", 82));
    folder.write("conf.d/10.toml", service("b", 81));
    folder.write("conf.d/.hidden.toml", "no TOML");
    folder.write("conf.d/10.toml~", "no TOML");
    let config = load(&main, &FakeSystem::new()).unwrap();
    assert_eq!(config.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn conf_d_may_be_absent_or_be_no_folder() {
    let folder = Folder::new("absent");
    let main = folder.write("pen.toml", BASE);
    fs::remove_dir(folder.0.join("conf.d")).unwrap();
    assert!(load(&main, &FakeSystem::new()).is_ok());
    folder.write("conf.d", "");
    let errors = load(&main, &FakeSystem::new()).unwrap_err();
    assert!(matches!(&errors[..], [error] if matches!(error.kind, ErrorKind::Unreadable { .. })));
}

#[test]
fn all_files_that_cannot_be_read_are_named() {
    let folder = Folder::new("unreadable");
    let main = folder.0.join("pen.toml");
    folder.write("conf.d/1.toml", b"# fine\n# \xff\n");
    let errors = load(&main, &FakeSystem::new()).unwrap_err();
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let root = folder.0.display();
    assert_eq!(
        lines,
        [
            format!(
                "{root}/pen.toml:1:1: cannot be read (No such file or directory (os error 2)); \
                 check the path and the permissions"
            ),
            format!("{root}/conf.d/1.toml:2:3: not UTF-8 text; save the file as UTF-8"),
        ]
    );
}
