//! What the configuration needs to know of the machine: a trait, so that it is checked the same way
//! in tests, which have a machine of their own.

use std::io;
use std::path::Path;

use crate::config::{CertificateFiles, FileProblem, Ports};

/// The machine that a configuration is for.
pub trait System {
    /// The host's name.
    fn host_name(&self) -> io::Result<String>;

    /// Names of all network interfaces.
    fn interfaces(&self) -> Vec<String>;

    /// Whether there is a network interface of this name.
    fn interface_exists(&self, name: &str) -> bool {
        self.interfaces().iter().any(|interface| interface == name)
    }

    /// Reads a secret and what decides whether it is one.
    fn secret(&self, path: &Path) -> io::Result<SecretFile>;

    /// Whether a file is a program that can be run; the error says why not.
    fn runnable(&self, path: &Path) -> io::Result<()>;

    /// Whether there is a user of this name or number.
    fn user_exists(&self, name: &str) -> bool;

    /// Whether there is a group of this name or number.
    fn group_exists(&self, name: &str) -> bool;

    /// Ports that the machine gives its own connections: `net.ipv4.ip_local_port_range`, which
    /// holds for IPv6 as well.
    fn local_ports(&self) -> io::Result<Ports>;

    /// Whether a certificate can be served, with the key that belongs to it.
    fn certificate(&self, files: &CertificateFiles) -> Result<(), FileProblem>;

    /// Whether these are authorities, and a list of what they have taken back.
    fn authorities(&self, ca: &Path, crl: Option<&Path>) -> Result<(), FileProblem>;

    /// Whether these are authorities that sign certificates of servers; those of the machine if not said.
    fn server_authorities(&self, ca: Option<&Path>) -> Result<(), FileProblem>;
}

/// A file that should hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// Neither folder nor pipe nor device.
    pub regular: bool,
    /// Permission bits.
    pub mode: u32,
    /// What it holds; of a long file only the beginning, of one that is not regular nothing.
    pub content: Vec<u8>,
}

#[cfg(feature = "io")]
pub use real::RealSystem;

#[cfg(feature = "io")]
mod real {
    use std::fs::{self, File};
    use std::io::{self, Read as _};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use nix::net::if_::{if_nameindex, if_nametoindex};
    use nix::unistd::{Group, User};

    use super::{SecretFile, System};
    use crate::config::tls::material;
    use crate::config::{CertificateFiles, FileProblem, Ports};

    /// The machine that we run on.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct RealSystem;

    impl System for RealSystem {
        fn host_name(&self) -> io::Result<String> {
            fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned())
        }

        // Asks the kernel: /sys/class/net may show another network namespace than ours.
        fn interfaces(&self) -> Vec<String> {
            let Ok(interfaces) = if_nameindex() else { return Vec::new() };
            let name = |i: &nix::net::if_::Interface| i.name().to_string_lossy().into_owned();
            interfaces.iter().map(name).collect()
        }

        fn interface_exists(&self, name: &str) -> bool {
            if_nametoindex(name).is_ok()
        }

        fn secret(&self, path: &Path) -> io::Result<SecretFile> {
            // Looks before it opens: to open a pipe would wait for a writer.
            let metadata = fs::metadata(path)?;
            let mode = metadata.permissions().mode() & 0o7777;
            if !metadata.is_file() {
                return Ok(SecretFile { regular: false, mode, content: Vec::new() });
            }
            let mut content = Vec::new();
            File::open(path)?.take(4096).read_to_end(&mut content)?;
            Ok(SecretFile { regular: true, mode, content })
        }

        fn runnable(&self, path: &Path) -> io::Result<()> {
            let metadata = fs::metadata(path)?;
            if !metadata.is_file() {
                return Err(io::Error::other("not a file"));
            }
            if metadata.permissions().mode() & 0o111 == 0 {
                return Err(io::Error::other("not executable"));
            }
            Ok(())
        }

        fn user_exists(&self, name: &str) -> bool {
            name.parse::<u32>().is_ok() || matches!(User::from_name(name), Ok(Some(_)))
        }

        fn group_exists(&self, name: &str) -> bool {
            name.parse::<u32>().is_ok() || matches!(Group::from_name(name), Ok(Some(_)))
        }

        fn local_ports(&self) -> io::Result<Ports> {
            let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
            let mut numbers = text.split_whitespace().map(str::parse);
            match (numbers.next(), numbers.next()) {
                (Some(Ok(first)), Some(Ok(last))) => Ok(Ports { first, last }),
                _ => Err(io::Error::other(text)),
            }
        }

        fn certificate(&self, files: &CertificateFiles) -> Result<(), FileProblem> {
            material::certificate(files).map(drop)
        }

        fn authorities(&self, ca: &Path, crl: Option<&Path>) -> Result<(), FileProblem> {
            material::verifier(ca, crl, false).map(drop)
        }

        fn server_authorities(&self, ca: Option<&Path>) -> Result<(), FileProblem> {
            material::server_roots(ca).map(drop)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_machine_has_a_name_and_a_loopback() {
            assert!(!RealSystem.host_name().unwrap().is_empty());
            assert!(RealSystem.interface_exists("lo"));
            assert!(RealSystem.interfaces().contains(&"lo".to_owned()));
            assert!(!RealSystem.interface_exists("no-such-nic"));
            let ports = RealSystem.local_ports().unwrap();
            assert!(ports.first < ports.last);
        }

        #[test]
        fn a_program_can_be_run_and_a_folder_or_text_cannot() {
            assert!(RealSystem.runnable(Path::new("/bin/sh")).is_ok());
            for (path, why) in [("/", "not a file"), ("/proc/self/status", "not executable")] {
                assert_eq!(RealSystem.runnable(Path::new(path)).unwrap_err().to_string(), why);
            }
            assert!(RealSystem.runnable(Path::new("/no/such/program")).is_err());
        }

        #[test]
        fn the_machine_has_a_root_and_numbers_need_no_name() {
            for (name, exists) in [("root", true), ("4711", true), ("no-such-name", false)] {
                assert_eq!(RealSystem.user_exists(name), exists, "{name}");
                assert_eq!(RealSystem.group_exists(name), exists, "{name}");
            }
        }

        #[test]
        fn a_secret_comes_with_its_mode_and_a_folder_is_no_secret() {
            let folder = std::env::temp_dir();
            assert!(!RealSystem.secret(&folder).unwrap().regular);
            let file = folder.join(format!("pen-secret-test-{}", std::process::id()));
            fs::write(&file, "00").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            let secret = RealSystem.secret(&file);
            fs::remove_file(&file).unwrap();
            let expected = SecretFile { regular: true, mode: 0o640, content: b"00".to_vec() };
            assert_eq!(secret.unwrap(), expected);
            assert!(RealSystem.secret(&file).is_err());
        }
    }
}
