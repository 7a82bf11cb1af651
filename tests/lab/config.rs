//! Writes pen's configuration for a lab or a first try on a real interface. Pure: values in, TOML
//! out.
//!
//! Says only what differs from pend's defaults, in the order a person would write it, so that the
//! result can serve as a template. Tests with odd settings add them as text.

use std::{
    fmt::{self, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// A configuration in the making.
#[derive(Clone, Debug, Default)]
pub struct ConfigText {
    /// Name and XDP mode ("auto", "native", "generic").
    pub interfaces: Vec<(String, String)>,
    /// Address and interface.
    pub vips: Vec<(IpAddr, String)>,
    /// What is balanced.
    pub services: Vec<ServiceText>,
    /// Anything else, as it should stand at the end of the file.
    pub extra: String,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// "tcp"
    Tcp,
    /// "udp"
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One `[[service]]`.
#[derive(Clone, Debug)]
pub struct ServiceText {
    /// What penctl calls it.
    pub name: String,
    /// VIP and port.
    pub listen: SocketAddr,
    /// Of the packets to balance.
    pub protocol: Protocol,
    /// "dsr" and so on.
    pub mode: String,
    /// "flow" or "client".
    pub affinity: String,
    /// Name (if it has one) and address.
    pub backends: Vec<(Option<String>, SocketAddr)>,
    /// The inline table after `check =`; without it none is written.
    pub check: Option<String>,
    /// The settle time, e.g. "1s"; without it none is written.
    pub settle: Option<String>,
    /// Other keys, as they should stand at the end.
    pub keys: String,
}

impl ServiceText {
    /// A service in mode `dsr` that spreads flows, whose backends are probed by connecting to TCP
    /// port `probed`.
    ///
    /// Spreading flows is right for a lab: its single client would otherwise always meet the same
    /// backend.
    pub fn dsr(name: &str, listen: SocketAddr, protocol: Protocol, probed: u16) -> Self {
        let port = match protocol {
            Protocol::Tcp if probed == listen.port() => String::new(),
            _ => format!("port = {probed}, "),
        };
        Self {
            name: name.to_owned(),
            listen,
            protocol,
            mode: "dsr".to_owned(),
            affinity: "flow".to_owned(),
            backends: Vec::new(),
            // UDP flows stay where they are for so long when the table changes, and a lab has no
            // patience.
            keys: String::new(),
            settle: (protocol == Protocol::Udp).then(|| "1s".to_owned()),
            check: Some(format!(
                r#"{{ type = "tcp", {port}interval = "200ms", timeout = "100ms", rise = 2, fall = 3 }}"#
            )),
        }
    }

    /// Adds a backend at the port of the service.
    pub fn backend(mut self, name: Option<&str>, address: IpAddr) -> Self {
        let at = SocketAddr::new(address, self.listen.port());
        self.backends.push((name.map(str::to_owned), at));
        self
    }
}

impl ConfigText {
    /// One interface, with the best XDP mode it can do.
    pub fn on(interface: &str) -> Self {
        Self { interfaces: vec![(interface.to_owned(), "auto".to_owned())], ..Self::default() }
    }

    /// Adds a VIP on the first interface.
    pub fn vip(mut self, address: IpAddr) -> Self {
        let interface = self.interfaces.first().map_or_else(String::new, |(name, _)| name.clone());
        self.vips.push((address, interface));
        self
    }

    /// Adds a service.
    pub fn service(mut self, service: ServiceText) -> Self {
        self.services.push(service);
        self
    }

    /// Adds text at the end.
    pub fn extra(mut self, text: &str) -> Self {
        self.extra.push_str(text);
        self
    }

    /// The file, with the daemon's socket unless the default shall hold.
    pub fn render(&self, socket: Option<&Path>) -> String {
        let mut text = String::new();
        self.write(&mut text, socket).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, out: &mut String, socket: Option<&Path>) -> fmt::Result {
        for (name, xdp) in &self.interfaces {
            writeln!(out, "[[interface]]\nname = {}\nxdp = {}\n", quote(name), quote(xdp))?;
        }
        if let Some(socket) = socket {
            writeln!(out, "[control]\nsocket = {}\n", quote(&socket.to_string_lossy()))?;
        }
        for (address, interface) in &self.vips {
            writeln!(out, "[[vip]]\naddress = \"{address}\"\ninterface = {}\n", quote(interface))?;
        }
        for service in &self.services {
            service.write(out)?;
        }
        out.write_str(&self.extra)
    }
}

impl ServiceText {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "[[service]]\nname = {}\nlisten = \"{}\"", quote(&self.name), self.listen)?;
        writeln!(out, "protocol = \"{}\"\nmode = {}", self.protocol, quote(&self.mode))?;
        writeln!(out, "affinity = {}\nbackends = [", quote(&self.affinity))?;
        for (name, address) in &self.backends {
            match name {
                Some(name) => {
                    writeln!(out, "    {{ address = \"{address}\", name = {} }},", quote(name))?;
                }
                None => writeln!(out, "    \"{address}\",")?,
            }
        }
        writeln!(out, "]")?;
        if let Some(settle) = &self.settle {
            writeln!(out, "settle = {}", quote(settle))?;
        }
        if let Some(check) = &self.check {
            writeln!(out, "check = {check}")?;
        }
        if !self.keys.is_empty() {
            writeln!(out, "{}", self.keys)?;
        }
        writeln!(out)
    }
}

/// A JSON string is a TOML string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> ConfigText {
        let web = ServiceText::dsr("web", "10.77.0.100:80".parse().unwrap(), Protocol::Tcp, 80)
            .backend(Some("b1"), "10.77.0.11".parse().unwrap())
            .backend(None, "10.77.0.12".parse().unwrap());
        let echo = ServiceText::dsr("echo6", "[fd77::100]:7".parse().unwrap(), Protocol::Udp, 80)
            .backend(Some("b1"), "fd77::11".parse().unwrap());
        ConfigText::on("eth0").vip("10.77.0.100".parse().unwrap()).service(web).service(echo)
    }

    #[test]
    fn the_text_is_toml_and_says_what_was_asked_for() {
        let text = example().render(Some(Path::new("/tmp/a \"b\"/pend.sock")));
        let value: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(value["interface"][0]["name"].as_str(), Some("eth0"));
        assert_eq!(value["control"]["socket"].as_str(), Some("/tmp/a \"b\"/pend.sock"));
        assert_eq!(value["vip"][0]["interface"].as_str(), Some("eth0"));
        let web = &value["service"][0];
        assert_eq!(web["listen"].as_str(), Some("10.77.0.100:80"));
        assert_eq!(web["backends"][0]["name"].as_str(), Some("b1"));
        assert_eq!(web["backends"][1].as_str(), Some("10.77.0.12:80"));
        assert_eq!(web["check"].get("port"), None, "the probe's port defaults to the backend's");
        let echo = &value["service"][1];
        assert_eq!(echo["protocol"].as_str(), Some("udp"));
        assert_eq!(echo["backends"][0]["address"].as_str(), Some("[fd77::11]:7"));
        assert_eq!(echo["check"]["port"].as_integer(), Some(80));
    }

    #[test]
    fn without_a_socket_the_default_holds_and_extra_text_comes_last() {
        let text = example().extra("[web]\nlisten = \"127.0.0.1:9118\"\n").render(None);
        let value: toml::Table = toml::from_str(&text).unwrap();
        assert!(!value.contains_key("control"));
        assert_eq!(value["web"]["listen"].as_str(), Some("127.0.0.1:9118"));
    }
}
