//! Builds the lab's network: clients, balancers and backends on one switch, addressed alike in IPv4
//! and IPv6.
//!
//! A host is known by its number: number 11 is 10.77.0.11, fd77::11 and 02:70:65:6e:00:11. Backends
//! hold the VIPs as the mode `dsr` asks for: on `lo`, and not answering ARP for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

use crate::{
    link::{NIC, Switch},
    netns::Netns,
};

/// The virtual address of the lab, IPv4.
pub const VIP4: IpAddr = IpAddr::V4(v4(100));
/// The virtual address of the lab, IPv6.
pub const VIP6: IpAddr = IpAddr::V6(v6(0x100));

const fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

const fn v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number)
}

/// One machine of the lab.
#[derive(Debug)]
pub struct Host {
    /// Where it lives.
    pub netns: Netns,
    /// "client", "balancer", "b1"; also the name of its port on the switch.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The MAC address of its `eth0`.
    pub mac: String,
}

impl Host {
    /// Its address of the same family as `other`.
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    fn connect(&self, switch: &Switch) -> Result<()> {
        switch.plug(&self.netns, &self.name, &self.mac)?;
        self.netns.ip(&format!("address add {}/24 dev {NIC}", self.v4))?;
        self.netns.ip(&format!("address add {}/64 dev {NIC} nodad", self.v6))?;
        Ok(())
    }

    /// Adds a VIP on `lo` so that packets for it are accepted, but nobody is told about it.
    pub fn hold_vip(&self, vip: IpAddr) -> Result<()> {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        self.netns.ip(&format!("address add {vip}/{length} dev lo {}", nodad(vip)))?;
        for scope in ["all", NIC] {
            self.netns.sysctl(&format!("net/ipv4/conf/{scope}/arp_ignore"), "1")?;
            self.netns.sysctl(&format!("net/ipv4/conf/{scope}/arp_announce"), "2")?;
        }
        Ok(())
    }
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "nodad" } else { "" }
}

/// What to build; see [`Lab::builder`].
#[derive(Debug)]
pub struct Builder {
    clients: u8,
    balancers: u8,
    backends: u8,
    vips: Vec<IpAddr>,
    pass: bool,
    mtu: Option<u32>,
}

/// The network. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    /// The first is number 2, then 3 and 4.
    pub clients: Vec<Host>,
    /// The first is number 1, then 5 to 9.
    pub balancers: Vec<Host>,
    /// `b1` is number 11, `b2` 12 and so on.
    pub backends: Vec<Host>,
    /// What connects them.
    pub switch: Switch,
}

impl Lab {
    /// One client, one balancer, three backends which hold both VIPs, unless told otherwise.
    pub fn builder() -> Builder {
        let vips = vec![VIP4, VIP6];
        Builder { clients: 1, balancers: 1, backends: 3, vips, pass: true, mtu: None }
    }

    /// The first client.
    pub fn client(&self) -> &Host {
        &self.clients[0]
    }

    /// The first balancer.
    pub fn balancer(&self) -> &Host {
        &self.balancers[0]
    }

    /// Takes a host off the switch for good: its `eth0` is gone.
    pub fn unplug(&self, host: &Host) -> Result<()> {
        self.switch.netns().ip(&format!("link delete dev {}", host.name)).map(drop)
    }

    /// Plugs a host in again after [`Lab::unplug`]: a new `eth0` with the same addresses.
    pub fn replug(&self, host: &Host) -> Result<()> {
        host.connect(&self.switch)
    }

    /// Plugs one more host in; the caller keeps it.
    pub fn add_host(&self, name: &str, number: u8) -> Result<Host> {
        make_host(&self.switch, name, number)
    }
}

impl Builder {
    /// How many clients (at most 3).
    pub fn clients(self, clients: u8) -> Self {
        Self { clients, ..self }
    }

    /// How many balancers (at most 6): more than one for fail-over.
    pub fn balancers(self, balancers: u8) -> Self {
        Self { balancers, ..self }
    }

    /// How many backends (at most 80).
    pub fn backends(self, backends: u8) -> Self {
        Self { backends, ..self }
    }

    /// Which VIPs the backends hold on `lo`; none for other modes than `dsr`.
    pub fn vips(self, vips: &[IpAddr]) -> Self {
        Self { vips: vips.to_vec(), ..self }
    }

    /// Leaves the balancers' wires without an XDP program at the switch: then only generic mode can
    /// transmit.
    pub fn without_pass(self) -> Self {
        Self { pass: false, ..self }
    }

    /// The MTU of all wires instead of Ethernet's 1500.
    pub fn mtu(self, mtu: u32) -> Self {
        Self { mtu: Some(mtu), ..self }
    }

    /// Builds it.
    pub fn build(self) -> Result<Lab> {
        if self.clients > 3 || self.balancers > 6 || self.backends > 80 {
            bail!("the lab has numbers for 3 clients, 6 balancers and 80 backends");
        }
        let switch = Switch::new()?;
        let host = |name: &str, index: u8, number: u8| {
            let name = if index == 0 { name.to_owned() } else { format!("{name}{}", index + 1) };
            make_host(&switch, &name, number)
        };
        let clients: Vec<_> =
            (0..self.clients).map(|i| host("client", i, 2 + i)).collect::<Result<_>>()?;
        let balancers: Vec<_> = (0..self.balancers)
            .map(|i| host("balancer", i, if i == 0 { 1 } else { 4 + i }))
            .collect::<Result<_>>()?;
        let backends: Vec<_> = (1..=self.backends)
            .map(|i| make_host(&switch, &format!("b{i}"), 10 + i))
            .collect::<Result<_>>()?;
        if let Some(mtu) = self.mtu {
            for host in clients.iter().chain(&balancers).chain(&backends) {
                switch.set_mtu(&host.name, &host.netns, mtu)?;
            }
        }
        if self.pass {
            balancers.iter().try_for_each(|host| switch.attach_pass(&host.name))?;
        }
        for backend in &backends {
            self.vips.iter().try_for_each(|vip| backend.hold_vip(*vip))?;
        }
        Ok(Lab { clients, balancers, backends, switch })
    }
}

fn make_host(switch: &Switch, name: &str, number: u8) -> Result<Host> {
    // The decimal digits are read as hexadecimal, so that .11 and ::11 are the same host to a
    // human.
    let number6 = u16::from_str_radix(&number.to_string(), 16)?;
    let host = Host {
        netns: Netns::new(name)?,
        name: name.to_owned(),
        v4: v4(number),
        v6: v6(number6),
        mac: format!("02:70:65:6e:{:02}:{:02}", number / 100, number % 100),
    };
    host.connect(switch).with_context(|| format!("cannot plug {name} in"))?;
    Ok(host)
}
