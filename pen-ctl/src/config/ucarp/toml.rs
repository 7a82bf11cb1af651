//! A ucarp command line as a configuration, for those who move on from `pend carp` to a pend that does
//! more. Says only what differs from the defaults, as a person would.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::Invocation;
use crate::config::{AddressesBy, CarpTransport, DEFAULT_GROUP};

impl Invocation {
    /// The same as the text of a configuration. The password is left to its file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let (Some(group), Some(vip)) = (self.config.carp.first(), self.config.vips.first()) else {
            return Ok(());
        };
        let (interface, name) = (quote(&group.interface), quote(&group.name));
        writeln!(out, "[[interface]]\nname = {interface}\nxdp = \"off\"\n")?;
        writeln!(out, "[[carp]]\nname = {name}\ninterface = {interface}\nvhid = {}", group.vhid)?;
        match &self.password_file {
            Some(file) => writeln!(out, "password_file = {}", path(file))?,
            None => writeln!(
                out,
                "password_file = \"/etc/pen/carp.password\"  # write the password of --pass there"
            )?,
        }
        if group.advbase.as_secs() != 1 {
            writeln!(out, "advbase = \"{}s\"", group.advbase.as_secs())?;
        }
        if group.advskew != 0 {
            writeln!(out, "advskew = {}", group.advskew)?;
        }
        if group.deadratio != 3 {
            writeln!(out, "deadratio = {}", group.deadratio)?;
        }
        for source in &group.sources {
            writeln!(out, "source = \"{source}\"")?;
        }
        match group.transport {
            CarpTransport::Multicast { group: DEFAULT_GROUP } | CarpTransport::Unicast { .. } => {}
            CarpTransport::Multicast { group } => writeln!(out, "group = \"{group}\"")?,
            CarpTransport::Broadcast { group } => {
                writeln!(out, "transport = \"broadcast\"\ngroup = \"{group}\"")?;
            }
        }
        writeln!(out, "mac = \"{}\"", group.mac)?;
        let switches = [
            ("preempt", group.preempt),
            ("neutral", group.neutral),
            ("ignore_link", group.ignore_link),
        ];
        for (key, _) in switches.iter().filter(|(_, on)| *on) {
            writeln!(out, "{key} = true")?;
        }
        if group.addresses == AddressesBy::Hooks {
            writeln!(out, "addresses = \"hooks\"")?;
        }
        let hooks = &group.hooks;
        for (key, hook) in [("up", &hooks.up), ("down", &hooks.down)] {
            if let Some(hook) = hook {
                writeln!(out, "{key} = {}", path(hook))?;
            }
        }
        // Without a hook a configuration must not have what belongs to it.
        if let Some(xparam) =
            hooks.xparam.as_ref().filter(|_| hooks.up.is_some() || hooks.down.is_some())
        {
            writeln!(out, "xparam = {}", quote(xparam))?;
        }
        if hooks.down_at_exit && hooks.down.is_some() {
            writeln!(out, "down_at_exit = true")?;
        }
        writeln!(out, "demote_on = {{ xdp_detached = 0 }}\n")?;
        let (address, interface) = (vip.address, quote(&vip.interface));
        writeln!(out, "[[vip]]\naddress = \"{address}\"\ninterface = {interface}\ncarp = {name}")
    }
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A basic string of TOML.
fn quote(text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        '"' | '\\' => format!("\\{character}"),
        control if control.is_control() => format!("\\u{:04X}", u32::from(control)),
        plain => plain.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::FakeSystem;
    use crate::config::ucarp::{Wish, read};
    use crate::config::{Source, parse};

    fn invocation(line: &str) -> Invocation {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        match read(&words, &FakeSystem::new()) {
            Ok(Wish::Run(invocation)) => *invocation,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_configuration_of_a_line_means_what_the_line_does() {
        const HOOKS: &str = "-u /etc/pen/up.sh -d /etc/pen/down.sh";
        let least = "-i eth0 -s 10.1.1.1 -v 42 -o /etc/pen/love -a 10.1.1.252";
        for more in [
            String::new(),
            HOOKS.to_owned(),
            format!("{HOOKS} -z -P -n -S -b 2 -k 100 -r 5 -x a\"\\b"),
            format!("{HOOKS} -M --mcastip=239.0.0.1"),
            "--mcastip=239.0.0.1 -b 0 -k 5".to_owned(),
            "-M -d /etc/pen/down.sh".to_owned(),
        ] {
            let invocation = invocation(&format!("{least} {more}"));
            let text = invocation.to_toml();
            let source = Source { name: "/etc/pen/pen.toml".into(), text: text.clone() };
            let config = parse(&[source], &FakeSystem::new())
                .unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
            assert_eq!(config.carp, invocation.config.carp, "{more}");
            assert_eq!(config.vips, invocation.config.vips, "{more}");
            assert_eq!(config.interfaces, invocation.config.interfaces, "{more}");
        }
    }

    #[test]
    fn a_password_is_not_written_down() {
        let invocation = invocation("-i eth0 -s 10.1.1.1 -v 42 -p secret -a 10.1.1.252");
        assert!(!invocation.to_toml().contains("secret"), "{}", invocation.to_toml());
        assert!(invocation.to_toml().contains("write the password of --pass there"));
    }
}
