//! A backend's side of tunnels: the real `penctl decap` in its namespace, with pins of its own.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    lab::Host,
    link::NIC,
    netns::Netns,
    paths::{Pins, program},
    process::{Output, SHORT, run},
};

/// `penctl decap` in a namespace. Dropping it removes its pins, and with them what is attached.
#[derive(Debug)]
pub struct Decap {
    netns: Netns,
    pins: Pins,
}

impl Decap {
    /// Nothing is attached yet.
    pub fn in_namespace(netns: &Netns) -> Result<Self> {
        Ok(Self { netns: netns.clone(), pins: Pins::new()? })
    }

    /// A backend that takes packets for these virtual addresses out of tunnels, or whatever else
    /// the arguments say.
    pub fn on(host: &Host, args: &[&str]) -> Result<Self> {
        let decap = Self::in_namespace(&host.netns)?;
        decap.attach(args)?;
        Ok(decap)
    }

    /// Attaches to `eth0`, or replaces what is there.
    pub fn attach(&self, args: &[&str]) -> Result<Output> {
        let output = self.penctl(&[&["attach", "--interface", NIC], args].concat())?;
        if !output.status.success() {
            bail!("penctl decap attach: {}", output.stderr.trim_end());
        }
        Ok(output)
    }

    /// Runs any verb.
    pub fn penctl(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.netns.command(program("penctl")?);
        command.arg("decap").args(words).arg("--pins").arg(self.pins.path());
        run(&mut command, SHORT)
    }

    /// What `penctl decap status` says of all interfaces.
    pub fn status(&self) -> Result<Value> {
        let output = self.penctl(&["status", "--json"])?;
        if !output.status.success() {
            bail!("penctl decap status: {}", output.stderr.trim_end());
        }
        Ok(serde_json::from_str(&output.stdout)?)
    }

    /// How many frames on `eth0` had this end.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        let mut counters = status[0]["counters"].as_array().into_iter().flatten();
        let counter = counters.find(|counter| counter["name"] == name);
        counter.and_then(|counter| counter["packets"].as_u64()).context("no such counter")
    }

    /// The folder of its pins.
    pub fn pins(&self) -> &Path {
        self.pins.path()
    }
}
