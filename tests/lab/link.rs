//! Wires: veth pairs between namespaces, and the switch into which all hosts are plugged.
//!
//! Two traps of veth are handled here. Sockets hand over frames with unfinished checksums, which a
//! balancer would pass on broken: checksum offload is off on every host. And frames sent by native
//! XDP_TX vanish unless the other end of the wire has an XDP program as well: see
//! [`Switch::attach_pass`].

use anyhow::Result;

use crate::{netns::Netns, paths::pass_object, pend::mount_bpffs, process::run_ok};

/// The network interface of every host of the lab.
pub const NIC: &str = "eth0";
const BRIDGE: &str = "br0";

/// Makes a wire: `left` in one namespace, `right` in the other, both down and without addresses.
pub fn veth(left: (&Netns, &str), right: (&Netns, &str)) -> Result<()> {
    let (left, left_name) = left;
    let (right, right_name) = right;
    // Made inside, so that not even for a moment there is an interface in the machine's own
    // namespace.
    left.ip(&format!(
        "link add name {left_name} type veth peer name {right_name} netns {}",
        right.name()
    ))?;
    Ok(())
}

/// A bridge in a namespace of its own.
#[derive(Debug)]
pub struct Switch(Netns);

impl Switch {
    /// A switch without ports.
    pub fn new() -> Result<Self> {
        let netns = Netns::new("switch")?;
        // It only switches: no address, no waiting for other bridges, no snooping that could hold
        // back neighbour discovery.
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        netns.ip(&format!(
            "link add name {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ))?;
        netns.ip(&format!("link set dev {BRIDGE} up"))?;
        Ok(Self(netns))
    }

    /// The namespace of the switch; captures on a host's port see the frames on its wire.
    pub fn netns(&self) -> &Netns {
        &self.0
    }

    /// Gives both ends of a wire this MTU.
    pub fn set_mtu(&self, port: &str, host: &Netns, mtu: u32) -> Result<()> {
        self.0.ip(&format!("link set dev {port} mtu {mtu}"))?;
        host.ip(&format!("link set dev {NIC} mtu {mtu}")).map(drop)
    }

    /// Plugs a namespace in: it gets [`NIC`] with this MAC address, the switch a port of this name.
    pub fn plug(&self, host: &Netns, port: &str, mac: &str) -> Result<()> {
        self.plug_as(host, NIC, port, mac)
    }

    /// As [`Switch::plug`], for a second interface of another name.
    pub fn plug_as(&self, host: &Netns, nic: &str, port: &str, mac: &str) -> Result<()> {
        veth((&self.0, port), (host, nic))?;
        self.0.ip(&format!("link set dev {port} master {BRIDGE} up"))?;
        host.ip(&format!("link set dev {nic} address {mac} up"))?;
        run_ok(host.command("ethtool").args(["-K", nic, "tx", "off"]))?;
        Ok(())
    }

    /// Takes a host off the wire (`false`) and puts it back.
    pub fn set_link(&self, port: &str, up: bool) -> Result<()> {
        self.0.ip(&format!("link set dev {port} {}", if up { "up" } else { "down" })).map(drop)
    }

    /// Gives a port the XDP program that passes everything, so that the host behind it can send
    /// with native XDP_TX.
    pub fn attach_pass(&self, port: &str) -> Result<()> {
        attach_pass(&self.0, port)
    }
}

/// Gives an interface the XDP program that passes everything, in native mode.
pub fn attach_pass(netns: &Netns, device: &str) -> Result<()> {
    let object = pass_object()?;
    // Before ip does it, which does not look whether another one is just doing so.
    mount_bpffs()?;
    run_ok(
        netns
            .command("ip")
            .args(["link", "set", "dev", device, "xdpdrv", "obj"])
            .arg(object)
            .args(["sec", "xdp.frags"]),
    )?;
    Ok(())
}

/// Which XDP program an interface has, as `ip` names the mode: "xdp" (native), "xdpgeneric".
pub fn xdp_mode(netns: &Netns, device: &str) -> Result<Option<String>> {
    let shown = netns.ip(&format!("link show dev {device}"))?;
    Ok(shown.split_whitespace().find(|word| word.starts_with("xdp")).map(str::to_owned))
}
