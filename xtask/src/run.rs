//! Placeholder for `cargo xtask run`.

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct RunArgs {}

pub(crate) fn run(_args: RunArgs) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask run` is not written yet")
}
