//! Unix sockets of services and backends: files, with all that comes of it. One that a dead process
//! left behind is replaced, one that somebody listens on and anything that is no socket is left alone,
//! and what this process made it removes again.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, Uid, User, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::sleep;

use super::heir::Estate;
use super::listen::BACKLOG;
use crate::config::SocketFile;

/// A server whose queue is full is asked again after this time; at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];

// === Listening ===

/// The file of a socket that this process listens on; removed when dropped.
#[derive(Debug)]
pub(super) struct Bound {
    path: PathBuf,
    /// Device and number of the file, which tell it from one that somebody put in its place.
    identity: Option<(u64, u64)>,
    /// What it is like, if this process made it so.
    file: Option<SocketFile>,
}

/// Listens on the path of a socket, `count` times: of one socket, for there is no other way to share
/// a path. It may have been left by another daemon.
///
/// # Errors
///
/// If the path is not to be had.
pub(super) fn listen(
    file: &SocketFile,
    count: usize,
    estate: &mut Estate,
) -> io::Result<(Bound, Vec<UnixListener>)> {
    let (bound, listener) = match estate.path(file.path.path()) {
        Some((mut bound, listener)) => {
            bound.follow(file)?;
            (bound, listener)
        }
        None => make(file)?,
    };
    let listeners: io::Result<_> = (0..count).map(|_| listener.try_clone()).collect();
    Ok((bound, listeners?))
}

fn make(file: &SocketFile) -> io::Result<(Bound, UnixListener)> {
    let path = file.path.path();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // What the file begins as (unix(7)): nobody but us may connect before all is as it should be.
    fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_left_over(path)?;
            socket.bind(&address)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = "its folder is not there; make it, for instance with RuntimeDirectory=";
            return Err(io::Error::new(ErrorKind::NotFound, why));
        }
        result => result?,
    }
    let mut bound = Bound { path: path.to_owned(), identity: identity(path), file: None };
    let owner = file.owner.as_deref().map(uid).transpose()?;
    let group = file.group.as_deref().map(gid).transpose()?;
    bound.give(owner, group, file)?;
    socket.listen(BACKLOG)?;
    Ok((bound, socket.into()))
}

/// Removes a socket that nobody listens on.
fn remove_left_over(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let why = "is there and is no socket; remove it, or listen elsewhere";
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    // Not to wait for somebody whose queue is full.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => {
            let why = "somebody else listens there; stop that, or listen elsewhere";
            Err(io::Error::new(ErrorKind::AddrInUse, why))
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Bound {
    /// The file of a socket that was left by another daemon, if it is there.
    pub(super) fn inherited(path: &Path) -> Option<Self> {
        let identity = Some(identity(path)?);
        Some(Self { path: path.to_owned(), identity, file: None })
    }

    /// What this process has made of the file.
    pub(super) const fn file(&self) -> Option<&SocketFile> {
        self.file.as_ref()
    }

    /// Whether the file is still the one of the socket.
    pub(super) fn is_there(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }

    /// Leaves the file to whoever has the socket now.
    pub(super) fn leave(mut self) {
        self.identity = None;
    }

    /// Gives the file the owner and the mode that it shall have from now on.
    ///
    /// # Errors
    ///
    /// If this process may not, or nobody is called so any more.
    pub(super) fn follow(&mut self, file: &SocketFile) -> io::Result<()> {
        // Whoever it belonged to until now.
        let owner = file.owner.as_deref().map_or_else(|| Ok(Uid::effective()), uid)?;
        let group = file.group.as_deref().map_or_else(|| Ok(Gid::effective()), gid)?;
        self.give(Some(owner), Some(group), file)
    }

    fn give(
        &mut self,
        owner: Option<Uid>,
        group: Option<Gid>,
        file: &SocketFile,
    ) -> io::Result<()> {
        if !self.is_there() {
            return Err(io::Error::other("somebody has removed or replaced it"));
        }
        if owner.is_some() || group.is_some() {
            chown(&self.path, owner, group)?;
        }
        fs::set_permissions(&self.path, Permissions::from_mode(file.mode))?;
        self.file = Some(file.clone());
        Ok(())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn uid(name: &str) -> io::Result<Uid> {
    if let Ok(number) = name.parse() {
        return Ok(Uid::from_raw(number));
    }
    let user = User::from_name(name)?;
    user.map(|user| user.uid).ok_or_else(|| io::Error::other(format!("no user `{name}`")))
}

fn gid(name: &str) -> io::Result<Gid> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let group = Group::from_name(name)?;
    group.map(|group| group.gid).ok_or_else(|| io::Error::other(format!("no group `{name}`")))
}

// === Connecting ===

/// Connects. While the server's queue is full it waits, as TCP does; the caller says for how long.
///
/// # Errors
///
/// Whatever else keeps it from connecting.
pub(super) async fn connect(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let mut pause = PAUSE[0];
    loop {
        match tokio::net::UnixStream::connect(path).await {
            // Other than TCP, a Unix socket does not become ready for it (connect(2), EAGAIN).
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE[1]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::time::timeout;

    use super::*;
    use crate::config::UnixPath;

    /// A folder that is gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pen-unix-{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("a new folder");
            Self(path)
        }

        fn socket(&self, mode: u32) -> SocketFile {
            let path = self.0.join("s");
            let path = UnixPath::new(path.to_str().expect("a short name"));
            SocketFile { path, mode, owner: None, group: None }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn listen(file: &SocketFile, count: usize) -> io::Result<(Bound, Vec<UnixListener>)> {
        super::listen(file, count, &mut Estate::default())
    }

    fn mode(file: &SocketFile) -> u32 {
        fs::metadata(file.path.path()).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_its_mode_follows_a_change_and_goes_with_its_owner() {
        let folder = Folder::new("mode");
        let file = folder.socket(0o660);
        let (mut bound, listeners) = listen(&file, 2).expect("a free path");
        assert_eq!((listeners.len(), mode(&file)), (2, 0o660));
        UnixStream::connect(file.path.path()).expect("somebody listens");
        let changed = SocketFile { owner: Some("4711".into()), ..folder.socket(0o600) };
        let rooted = Uid::effective().is_root();
        assert_eq!(bound.follow(&changed).is_ok(), rooted);
        assert_eq!(mode(&file) == 0o600, rooted);
        let nobody = SocketFile { group: Some("no-such-group".into()), ..folder.socket(0o666) };
        let error = bound.follow(&nobody).expect_err("nobody is called so");
        assert_eq!(error.to_string(), "no group `no-such-group`");
        let nobody = SocketFile { owner: Some("no-such-user".into()), ..folder.socket(0o666) };
        let error = bound.follow(&nobody).expect_err("nobody is called so");
        assert_eq!(error.to_string(), "no user `no-such-user`");
        bound.follow(&folder.socket(0o600)).expect("its own again");
        let owner = |path: &Path| fs::metadata(path).expect("it is there").uid();
        assert_eq!(owner(file.path.path()), Uid::effective().as_raw());
        drop(bound);
        assert!(!file.path.path().exists());
    }

    #[test]
    fn a_file_that_is_left_to_others_stays_and_one_that_was_replaced_is_told() {
        let folder = Folder::new("leave");
        let file = folder.socket(0o660);
        let (bound, _listeners) = listen(&file, 1).expect("a free path");
        bound.leave();
        assert!(file.path.path().exists());
        let mut bound = Bound::inherited(file.path.path()).expect("it is there");
        fs::remove_file(file.path.path()).expect("it was there");
        assert!(bound.follow(&file).expect_err("gone").to_string().contains("removed"));
        assert!(Bound::inherited(file.path.path()).is_none());
    }

    #[test]
    fn a_left_over_is_replaced_but_nothing_that_lives_and_no_file() {
        let folder = Folder::new("stale");
        let file = folder.socket(0o600);
        let path = file.path.path();
        drop(UnixListener::bind(path).expect("a free path"));
        assert!(path.exists(), "a socket outlives its process");
        let (bound, _listeners) = listen(&file, 1).expect("it was left over");
        let error = listen(&file, 1).expect_err("somebody listens");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        UnixStream::connect(path).expect("still there");
        // Somebody else put theirs in its place: it is not ours to remove.
        fs::remove_file(path).expect("it was there");
        fs::write(path, "important").expect("a free path");
        drop(bound);
        let error = listen(&file, 1).expect_err("no socket");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(path).expect("untouched"), "important");
    }

    #[test]
    fn without_its_folder_the_cure_is_named() {
        let path = UnixPath::new("/no/such/folder/s");
        let error = listen(&SocketFile { path, mode: 0o600, owner: None, group: None }, 1);
        let error = error.expect_err("no folder").to_string();
        assert!(error.contains("folder"), "{error}");
    }

    #[test]
    fn a_full_queue_is_waited_for_and_no_server_is_not() {
        let folder = Folder::new("full");
        let file = folder.socket(0o600);
        let path = file.path.path();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let error = connect(path).await.expect_err("nothing there");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket.bind(&SockAddr::unix(path).expect("short")).expect("a free path");
            socket.listen(0).expect("a backlog of one");
            let mut held = vec![connect(path).await.expect("room for one")];
            let mut waits = Box::pin(connect(path));
            while let Ok(stream) = timeout(Duration::from_millis(50), &mut waits).await {
                held.push(stream.expect("room"));
                waits = Box::pin(connect(path));
            }
            let accepted = socket.accept().expect("somebody waits");
            waits.await.expect("there is room again");
            drop((held, accepted));
        });
    }
}
