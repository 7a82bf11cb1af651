//! The command line: one question or wish to the daemon, answered as text or JSON.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a binary speaks to its operator")]

#[path = "penctl/carp.rs"]
mod carp;
#[path = "penctl/decap.rs"]
mod decap;
#[path = "penctl/drain.rs"]
mod drain;
#[path = "penctl/notify.rs"]
mod notify;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use pen_ctl::api::records::DEFAULT_LIMIT;
use pen_ctl::api::{
    Admin, Cidr, Clients, Close, Connections, Event, Explain, Flows, OneBackend, RecordQuery,
    Reload, Request, SetAdmin, SetWeight, Simulate, Simulation,
};
use pen_ctl::config::{self, Protocol};
use pen_ctl::daemon::DEFAULT_PINS;
use pen_ctl::detach;
use pen_ctl::io::control::client::{Client, ClientError};
use pen_ctl::io::process;
use pen_ctl::show::{self, Style};
use serde::de::DeserializeOwned;

/// A daemon that said that it leaves has ended after this time.
const FAREWELL: Duration = Duration::from_secs(10);

/// Looks into pend and changes what it does.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  penctl backends                                  who is usable, and why not
  penctl backends web/b1                           how its last checks ended
  penctl drain web/b1 --deadline 10m --wait        take b1 out of service, and wait until it is empty
  penctl explain 198.51.100.7:5000 192.0.2.10:80   where would this packet go, and why
  penctl explain --simulate 100000 --service web   who would get how many of many
  penctl --json counters | jq .                    for machines
  penctl events --follow                           what happens, as it happens

Exit status: 0 done, 1 refused, 2 usage or bad configuration, 3 daemon unreachable."
)]
struct Args {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", global = true, default_value = "/run/pen/pend.sock")]
    socket: PathBuf,
    /// JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The node at a glance: interfaces, XDP mode, how many backends are usable
    Status,
    /// Services: where they listen, how many backends are usable, traffic
    Services,
    /// Backends: state, share, traffic, and why one is not usable; of one: its last checks
    Backends {
        /// Show how the last checks of this one ended
        #[arg(value_name = "SERVICE/BACKEND", value_parser = target)]
        one: Option<Target>,
    },
    /// Virtual addresses
    Vips,
    /// Counters of the data plane: the end of every frame
    Counters,
    /// Flows that the kernel has records of, newest first: who goes where, since when, and as whom
    Flows(Records),
    /// Clients that the kernel remembers, newest first
    Clients(Records),
    /// Connections that the proxies have, youngest first
    Connections(Records),
    /// Close connections of the proxies: one by its number, or all that fit
    Close(Closing),
    /// What happened lately
    Events {
        /// Go on and print what happens
        #[arg(long, short)]
        follow: bool,
    },
    /// Where a packet would go, and why; or, with --simulate, where many would
    Explain(Question),
    /// Give a backend no new connections; those that it has go on, and so do its checks
    Drain(drain::Drain),
    /// No packets at all to a backend, and no checks of it
    Maint(Wish),
    /// Back into service
    Ready(Wish),
    /// Set a backend's weight
    Weight {
        /// SERVICE/BACKEND, e.g. web/b1
        #[arg(value_parser = target)]
        target: Target,
        /// 0 to 256; 0 takes no new flows
        weight: u32,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Groups of virtual addresses that nodes share: who has them, and since when
    #[command(args_conflicts_with_subcommands = true, after_help = carp::HELP)]
    Carp(carp::Args),
    /// The certificates that the proxies serve: for which names, and for how long
    Certs,
    /// Peers that are told of connections, so that those go on there when an address moves
    Sync,
    /// Who is told of events
    #[command(subcommand)]
    Notify(notify::Verb),
    /// End the daemon, but let the kernel go on forwarding, for the next one
    Leave,
    /// End forwarding where no daemon runs: remove the links and maps that one has left
    Detach {
        /// Folder on a bpffs in which they are pinned
        #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
        pins: PathBuf,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Read the configuration again, and change what is different
    Reload {
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// How the configuration differs from the one in force: what `reload` would change
    Diff,
    /// On a backend: take packets out of pen's tunnels (modes ipip and gue), without a daemon
    #[command(subcommand, after_help = decap::HELP)]
    Decap(decap::Verb),
    /// Check a configuration, without a daemon
    Check {
        /// The file
        file: PathBuf,
    },
}

#[derive(clap::Args)]
struct Question {
    /// Source, e.g. 198.51.100.7:5000
    #[arg(required_unless_present = "simulate", conflicts_with = "simulate")]
    source: Option<SocketAddr>,
    /// Destination, e.g. 192.0.2.10:80
    #[arg(required_unless_present = "simulate")]
    destination: Option<SocketAddr>,
    /// tcp or udp
    #[arg(default_value = "tcp", value_parser = protocol)]
    protocol: Protocol,
    /// A packet of an open connection, instead of the SYN that opens one
    #[arg(long)]
    established: bool,
    /// Instead of one packet: so many flows of random clients to a service
    #[arg(long, value_name = "N", requires = "service")]
    simulate: Option<u32>,
    /// The service that is simulated
    #[arg(long, value_name = "NAME", requires = "simulate")]
    service: Option<String>,
    /// The same seed draws the same flows
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

impl Question {
    fn request(&self) -> Request {
        match (self.source, self.destination, self.simulate, &self.service) {
            (Some(source), Some(destination), ..) => Request::Explain(Explain {
                source,
                destination,
                protocol: self.protocol,
                established: self.established,
            }),
            (_, _, Some(flows), Some(service)) => Request::Simulate(Simulate {
                service: service.clone(),
                flows,
                seed: self.seed,
                established: self.established,
            }),
            _ => unreachable!("clap asks for the one or the other"),
        }
    }
}

#[derive(clap::Args)]
struct Records {
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only of backends of this name
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only of clients in this network, e.g. 198.51.100.0/24
    #[arg(long, value_name = "CIDR")]
    client: Option<Cidr>,
    /// Rows at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT)]
    limit: usize,
}

impl Records {
    fn query(&self) -> RecordQuery {
        RecordQuery {
            service: self.service.clone(),
            backend: self.backend.clone(),
            client: self.client,
            limit: self.limit,
        }
    }
}

#[derive(clap::Args)]
#[group(required = true, multiple = true, args = ["id", "service", "backend", "client"])]
struct Closing {
    /// Number of the connection, as `penctl connections` shows it
    id: Option<u64>,
    /// Those of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Those to backends of this name
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Those of clients in this network, e.g. 198.51.100.0/24
    #[arg(long, value_name = "CIDR")]
    client: Option<Cidr>,
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
}

impl Closing {
    fn request(&self) -> Request {
        Request::Close(Close {
            id: self.id,
            service: self.service.clone(),
            backend: self.backend.clone(),
            client: self.client,
            dry_run: self.dry_run,
        })
    }
}

#[derive(clap::Args)]
struct Wish {
    /// SERVICE/BACKEND, e.g. web/b1
    #[arg(value_parser = target)]
    target: Target,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone)]
struct Target {
    service: String,
    backend: String,
}

fn target(text: &str) -> Result<Target, String> {
    match text.split_once('/') {
        Some((service, backend)) if !service.is_empty() && !backend.is_empty() => {
            Ok(Target { service: service.to_owned(), backend: backend.to_owned() })
        }
        _ => Err("expected SERVICE/BACKEND, e.g. web/b1".to_owned()),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err("expected tcp or udp".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Verb::Check { file } = &args.verb {
        return check(file, args.json);
    }
    if let Verb::Detach { pins, dry_run } = &args.verb {
        return detach(pins, *dry_run, args.json);
    }
    if let Verb::Decap(verb) = args.verb {
        return decap::run(verb, args.json);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("penctl: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penctl: {error}");
            ExitCode::from(match error {
                ClientError::Refused(_) => 1,
                ClientError::Unreachable { .. } | ClientError::Broken(_) => 3,
            })
        }
    }
}

fn check(file: &Path, json: bool) -> ExitCode {
    match config::load(file, &config::RealSystem) {
        Ok(_) if json => println!("[]"),
        Ok(_) => println!("{}: good", file.display()),
        Err(errors) => {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            if json {
                println!("{}", serde_json::Value::from(lines));
            } else {
                for line in lines {
                    eprintln!("{line}");
                }
            }
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn detach(pins: &Path, dry_run: bool, json: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(detach::run(pins, dry_run)));
    match done {
        Ok(done) if json => {
            println!("{}", serde_json::to_string(&done).expect("plain data is JSON"));
        }
        Ok(done) if done.removed.is_empty() => {
            println!("{}: nothing of pen is there", pins.display());
        }
        Ok(done) => {
            let verb = if dry_run { "would be removed" } else { "removed" };
            for what in done.removed {
                println!("{verb}: {what}");
            }
        }
        Err(error) => {
            eprintln!("penctl: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn run(args: &Args) -> Result<(), ClientError> {
    let mut client = Client::connect(&args.socket).await?;
    let request = match &args.verb {
        Verb::Status => Request::Status,
        Verb::Services => Request::Services,
        Verb::Backends { one: None } => Request::Backends,
        Verb::Backends { one: Some(Target { service, backend }) } => {
            Request::Probes(OneBackend { service: service.clone(), backend: backend.clone() })
        }
        Verb::Vips => Request::Vips,
        Verb::Counters => Request::Counters,
        Verb::Flows(records) => Request::Flows(records.query()),
        Verb::Clients(records) => Request::Clients(records.query()),
        Verb::Connections(records) => Request::Connections(records.query()),
        Verb::Close(closing) => closing.request(),
        Verb::Events { .. } => Request::Events { since: 0 },
        Verb::Explain(question) => question.request(),
        Verb::Drain(drain) => drain.request(),
        Verb::Maint(wish) => admin(wish, Admin::Maint),
        Verb::Ready(wish) => admin(wish, Admin::Ready),
        Verb::Weight { target, weight, dry_run } => Request::SetWeight(SetWeight {
            service: target.service.clone(),
            backend: target.backend.clone(),
            weight: *weight,
            dry_run: *dry_run,
        }),
        Verb::Carp(args) => args.request(),
        Verb::Certs => Request::Certificates,
        Verb::Sync => Request::Sync,
        Verb::Notify(verb) => verb.request(),
        Verb::Leave => Request::Leave,
        Verb::Reload { dry_run } => Request::Reload(Reload { dry_run: *dry_run }),
        Verb::Diff => Request::Reload(Reload { dry_run: true }),
        Verb::Check { .. } | Verb::Decap(_) | Verb::Detach { .. } => {
            unreachable!("needs no daemon")
        }
    };
    let daemon = client.peer();
    let answer = client.ask(&request).await?;
    if let (Verb::Leave, Some(pid)) = (&args.verb, daemon) {
        gone(pid).await?;
    }
    print(args, &answer)?;
    if let Verb::Events { follow: true } = &args.verb {
        follow(args, client, &answer).await?;
    } else if let Verb::Drain(drain) = &args.verb {
        drain.wait(args, client).await?;
    }
    Ok(())
}

fn admin(wish: &Wish, admin: Admin) -> Request {
    Request::SetAdmin(SetAdmin {
        service: wish.target.service.clone(),
        backend: wish.target.backend.clone(),
        admin,
        deadline_ms: None,
        dry_run: wish.dry_run,
    })
}

/// Waits for the daemon's end, so that whoever starts the next one afterwards finds the place free.
async fn gone(pid: u32) -> Result<(), ClientError> {
    let ended = async {
        while process::is_running(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(FAREWELL, ended)
        .await
        .map_err(|_| ClientError::Broken(format!("process {pid} said that it leaves, and runs on")))
}

/// Asks again each half second for what is new, on a new connection when the old one ended.
async fn follow(args: &Args, mut client: Client, first: &[u8]) -> Result<(), ClientError> {
    let mut since = last(&parse::<Vec<Event>>(first)?, 0);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let request = Request::Events { since };
        let answer = match client.ask(&request).await {
            Err(ClientError::Broken(_)) => {
                // Another daemon, perhaps, whose numbers start anew.
                client = Client::connect(&args.socket).await?;
                since = 0;
                client.ask(&Request::Events { since }).await?
            }
            answer => answer?,
        };
        let events = parse::<Vec<Event>>(&answer)?;
        if !events.is_empty() {
            since = last(&events, since);
            print(args, &answer)?;
        }
    }
}

fn last(events: &[Event], since: u64) -> u64 {
    events.last().map_or(since, |event| event.sequence)
}

fn print(args: &Args, answer: &[u8]) -> Result<(), ClientError> {
    let text = if args.json {
        String::from_utf8_lossy(answer).into_owned()
    } else {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        render(&args.verb, answer, Style { aligned: terminal, colour })?
    };
    // A reader that closed the pipe has seen enough.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    if let Some(note) = left_out(&args.verb, answer)? {
        eprintln!("penctl: {note}");
    }
    Ok(())
}

/// What a list leaves out; not on standard output, so that a pipe gets only rows.
fn left_out(verb: &Verb, answer: &[u8]) -> Result<Option<String>, ClientError> {
    let (more, complete) = match verb {
        Verb::Flows(_) => {
            let Flows { more, complete, .. } = parse(answer)?;
            (more, complete)
        }
        Verb::Clients(_) => {
            let Clients { more, complete, .. } = parse(answer)?;
            (more, complete)
        }
        Verb::Connections(_) => {
            let Connections { more, .. } = parse(answer)?;
            (more, true)
        }
        Verb::Explain(Question { simulate: Some(wanted), .. }) => {
            let Simulation { flows, complete, .. } = parse(answer)?;
            let note = format!("time was up after {flows} of {wanted} flows");
            return Ok((!complete).then_some(note));
        }
        _ => return Ok(None),
    };
    Ok(show::left_out(more, complete))
}

fn render(verb: &Verb, answer: &[u8], style: Style) -> Result<String, ClientError> {
    Ok(match verb {
        Verb::Status => show::status(&parse(answer)?, style),
        Verb::Services => show::services(&parse::<Vec<_>>(answer)?, style),
        Verb::Backends { one: None } => show::backends(&parse::<Vec<_>>(answer)?, style),
        Verb::Backends { one: Some(_) } => show::probes(&parse(answer)?, style),
        Verb::Vips => show::vips(&parse::<Vec<_>>(answer)?, style),
        Verb::Counters => show::counters(&parse::<Vec<_>>(answer)?, style),
        Verb::Flows(_) => show::flows(&parse(answer)?, style),
        Verb::Clients(_) => show::clients(&parse(answer)?, style),
        Verb::Connections(_) => show::connections(&parse(answer)?, style),
        Verb::Close(_) => show::closed(&parse(answer)?),
        Verb::Events { .. } => show::events(&parse::<Vec<_>>(answer)?, style),
        Verb::Explain(Question { simulate: Some(_), .. }) => {
            show::simulation(&parse(answer)?, style)
        }
        Verb::Explain(_) => show::explanation(&parse(answer)?, style),
        Verb::Drain(_) | Verb::Maint(_) | Verb::Ready(_) | Verb::Weight { .. } => {
            show::change(&parse(answer)?)
        }
        Verb::Carp(args) => args.render(answer, style)?,
        Verb::Certs => show::certificates(&parse::<Vec<_>>(answer)?, style),
        Verb::Sync => show::sync(&parse(answer)?, style),
        Verb::Notify(_) => show::notify_tested(&parse(answer)?),
        Verb::Leave => show::left(&parse(answer)?),
        Verb::Reload { .. } | Verb::Diff => show::changes(&parse(answer)?, style),
        Verb::Check { .. } | Verb::Decap(_) | Verb::Detach { .. } => {
            unreachable!("needs no daemon")
        }
    })
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(answer).map_err(|error| ClientError::Broken(error.to_string()))
}
