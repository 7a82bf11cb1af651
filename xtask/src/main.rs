//! What a person and CI type. (Stand-in: only `run` and `demo-server` are here; setup and build do
//! nothing.)

mod run;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Verb {
    /// Try pen: a lab with client, balancer and three backends; or pen on a real interface
    Run(run::RunArgs),
    #[command(hide = true)]
    DemoServer(run::DemoServerArgs),
}

mod setup {
    pub(crate) fn setup() -> anyhow::Result<()> {
        Ok(())
    }
}

mod build {
    pub(crate) fn build() -> anyhow::Result<()> {
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::Run(args) => run::run(args),
        Verb::DemoServer(args) => run::demo_server(&args),
    }
}
