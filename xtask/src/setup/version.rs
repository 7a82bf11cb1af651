//! Reading versions out of what programs print, and out of a linker that does not print the one
//! that matters. Pure, because each line here is somebody else's format.

/// Major and minor; the rest never decides anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl Version {
    /// The leading `1.96` of `1.96.0-nightly` or `1.96.0+dfsg1-1`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (major, rest) = text.trim().split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// Rust's and LLVM's version, from `rustc -vV`.
pub(super) fn of_rustc(verbose: &str) -> Option<(Version, u32)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
    let rust = Version::parse(field("release: ")?)?;
    let llvm = Version::parse(field("LLVM version: ")?)?;
    Some((rust, llvm.major))
}

/// The version that apt would install, from `apt-cache policy PACKAGE`; its epoch is left out.
pub(super) fn apt_candidate(policy: &str) -> Option<&str> {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (candidate != "(none)")
        .then(|| candidate.split_once(':').map_or(candidate, |(_epoch, version)| version))
}

/// The LLVM that a program was linked with: `libLLVM.so.22.1` in its list of libraries, `LLVM22.1.8`
/// (the name LLVM signs bitcode with) if it is linked statically. `bpf-linker --version` does not say.
pub(super) fn llvm_inside(program: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"LLVM";
    program
        .windows(NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == NAME)
        .find_map(|(at, _)| major_at(&program[at + NAME.len()..]))
}

/// `22` from `22.1`, `_22.1` or `.so.22.1`; nothing from words that merely go on with a digit.
fn major_at(text: &[u8]) -> Option<u32> {
    let text = text.strip_prefix(b".so.").or_else(|| text.strip_prefix(b"_")).unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let followed_by_minor =
        text.get(digits) == Some(&b'.') && text.get(digits + 1).is_some_and(u8::is_ascii_digit);
    if !followed_by_minor {
        return None;
    }
    str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let of = |text| Version::parse(text).expect("a version");
        assert!(of("1.100.0") > of("1.95.0"));
        assert_eq!(of("1.96.0+dfsg1-1~deb12u2"), Version { major: 1, minor: 96 });
        assert_eq!(Version::parse("unknown"), None);
    }

    #[test]
    fn rustc_tells_its_own_and_its_llvms_version() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(of_rustc(text), Some((Version { major: 1, minor: 97 }, 22)));
        assert_eq!(of_rustc("release: 1.97.0\n"), None);
    }

    #[test]
    fn apt_names_a_candidate_or_none() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1\n";
        assert_eq!(apt_candidate(policy), Some("1.96.0+dfsg1-1"));
        assert_eq!(apt_candidate("x:\n  Candidate: 1:22.1.8-1\n"), Some("22.1.8-1"));
        assert_eq!(apt_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(apt_candidate(""), None);
    }

    #[test]
    fn the_llvm_of_a_linker_is_found_in_its_bytes() {
        for (bytes, llvm) in [
            (&b"\0libLLVM.so.22.1\0"[..], Some(22)),
            (b"\0LLVM_21.1\0", Some(21)),
            (b"LLVM0700\0LLVM 22 builds also\0LLVM23.1.0\0", Some(23)),
            (b"LLVM0700", None),
            (b"LLVM", None),
        ] {
            assert_eq!(llvm_inside(bytes), llvm, "{}", bytes.escape_ascii());
        }
    }
}
